//! How a read is made and checked: the one place to change when there is a better way to ask.
//!
//! A fast wrong answer is no good answer. Every record must have been asked for, be there once, and have as many
//! features as were asked for: otherwise the read counts as an error, of kind `missing` or `wrong`. Columns say no
//! identifiers where they were not asked for; there the place is what tells.

use std::collections::HashSet;

use granary_proto::v1::feature_column::Values;
use granary_proto::v1::{
    BatchGetRecordRequest, BatchGetRecordResponse, BatchRecord, EntityKeys, EntityStatus, FeatureColumns,
    FeatureSelection, GetFeaturesRequest, GetFeaturesResponse, RecordKeys,
};

use super::{Shape, Store, failure, failure_of_code};
use crate::run::Failure;
use crate::workload::{IDENTIFIER, OWN_FEATURES, identifier};

impl Store {
    /// Does the read of this number and checks the answer.
    pub(super) async fn read(&self, number: u64) -> Result<(), Failure> {
        let keys = self.record_keys(number);
        let features: Vec<_> = keys.iter().enumerate().map(|(ask, _)| self.features_expected(ask)).collect();
        let consistency = Some(self.settings.consistency.clone());
        match self.settings.shape {
            Shape::Columns => {
                let request = GetFeaturesRequest { consistency, ..by_column(&keys) };
                let answer = self.client().get_features(request).await.map_err(|status| failure(&status))?;
                check_columns(&keys, &features, &answer.into_inner())
            }
            Shape::Records => {
                let request = BatchGetRecordRequest { keys: keys.clone(), consistency };
                let answer = self.client().batch_get_record(request).await.map_err(|status| failure(&status))?;
                check(&keys, &features, &answer.into_inner())
            }
        }
    }

    fn record_keys(&self, number: u64) -> Vec<RecordKeys> {
        let drawn = self.draws.read(number).into_iter();
        let parts = self.workload.asks.iter().zip(&self.projections).zip(drawn);
        let of_part = |((ask, projection), keys): ((&crate::workload::Ask, &Vec<String>), Vec<u64>)| RecordKeys {
            feature_group: self.group_name(ask.group),
            record_identifiers: keys.into_iter().map(identifier).collect(),
            feature_names: projection.clone(),
        };
        parts.map(of_part).collect()
    }

    /// How many features each record of a part must come with.
    fn features_expected(&self, ask: usize) -> usize {
        match self.projections[ask].len() {
            0 => self.workload.groups[self.workload.asks[ask].group].feature_count() as usize + OWN_FEATURES,
            named => named,
        }
    }
}

/// The same read by column, each part with keys of its own.
fn by_column(keys: &[RecordKeys]) -> GetFeaturesRequest {
    let parts = keys.iter().enumerate().map(|(part, keys)| {
        let entities = EntityKeys { name: part.to_string(), record_identifiers: keys.record_identifiers.clone() };
        let selection = FeatureSelection {
            feature_group: keys.feature_group.clone(),
            feature_names: keys.feature_names.clone(),
            keys: part.to_string(),
        };
        (entities, selection)
    });
    let (keys, selections) = parts.unzip();
    GetFeaturesRequest { keys, selections, consistency: None }
}

/// Whether `answer` is what `keys` ask for, each part with so many `features`.
fn check_columns(keys: &[RecordKeys], features: &[usize], answer: &GetFeaturesResponse) -> Result<(), Failure> {
    if answer.selections.len() != keys.len() {
        return Err(Failure("wrong"));
    }
    for ((keys, features), read) in keys.iter().zip(features).zip(&answer.selections) {
        if let Some(failure) = read.failures.first() {
            return Err(failure_of_code(&failure.code));
        }
        let is_of = read.feature_group == keys.feature_group && read.columns.len() == *features;
        if !is_of || read.statuses.len() != keys.record_identifiers.len() {
            return Err(Failure("wrong"));
        }
        if read.statuses().any(|status| status != EntityStatus::Found) {
            return Err(Failure("missing"));
        }
        // Every record has a value of every feature.
        let complete = read.columns.iter().all(|column| column.present.is_empty() && column.values.is_some());
        if !complete || !echoes(read, &keys.record_identifiers) {
            return Err(Failure("wrong"));
        }
    }
    Ok(())
}

/// Whether the identifiers, where they were asked for, are those that were asked for.
fn echoes(read: &FeatureColumns, identifiers: &[String]) -> bool {
    let Some(column) = read.columns.iter().find(|column| column.name == IDENTIFIER) else { return true };
    let Some(Values::Texts(texts)) = &column.values else { return false };
    let lengths = identifiers.iter().map(String::len);
    texts.data == identifiers.concat() && lengths.eq(texts.lengths.iter().map(|length| *length as usize))
}

/// Whether `answer` is what `keys` ask for, each part with records of so many `features`.
fn check(keys: &[RecordKeys], features: &[usize], answer: &BatchGetRecordResponse) -> Result<(), Failure> {
    if let Some(error) = answer.errors.first() {
        return Err(failure_of_code(&error.code));
    }
    if !answer.unprocessed.is_empty() {
        return Err(Failure("unprocessed"));
    }
    let asked: usize = keys.iter().map(|keys| keys.record_identifiers.len()).sum();
    let mut wanted: Vec<HashSet<&str>> = Vec::with_capacity(keys.len());
    wanted.extend(keys.iter().map(|keys| keys.record_identifiers.iter().map(String::as_str).collect()));
    for record in &answer.records {
        let part = keys.iter().position(|keys| keys.feature_group == record.feature_group).ok_or(Failure("wrong"))?;
        if !wanted[part].remove(record.record_identifier.as_str()) || !is_whole(record, features[part]) {
            return Err(Failure("wrong"));
        }
    }
    if answer.records.len() < asked { Err(Failure("missing")) } else { Ok(()) }
}

fn is_whole(record: &BatchRecord, features: usize) -> bool {
    record.record.len() == features && record.record.iter().all(|value| value.value.is_some())
}

#[cfg(test)]
mod tests {
    use granary_proto::v1::{BatchError, EntityFailure, FeatureColumn, FeatureValue, Integers, Texts, Value, value};

    use super::*;

    fn keys() -> Vec<RecordKeys> {
        let of_group = |group: &str, records: &[&str]| RecordKeys {
            feature_group: group.to_owned(),
            record_identifiers: records.iter().map(|&record| record.to_owned()).collect(),
            feature_names: Vec::new(),
        };
        vec![of_group("users", &["1", "2"]), of_group("items", &["1"])]
    }

    fn record(group: &str, identifier: &str, features: usize) -> BatchRecord {
        let value = Value { kind: Some(value::Kind::Integral(7)) };
        let values = (0..features).map(|n| FeatureValue { name: format!("i{n}"), value: Some(value.clone()) });
        BatchRecord {
            feature_group: group.to_owned(),
            record_identifier: identifier.to_owned(),
            record: values.collect(),
            ..BatchRecord::default()
        }
    }

    fn verdict(records: Vec<BatchRecord>) -> Result<(), Failure> {
        check(&keys(), &[3, 2], &BatchGetRecordResponse { records, ..BatchGetRecordResponse::default() })
    }

    #[test]
    fn only_the_right_answer_is_good() {
        let right = || vec![record("items", "1", 2), record("users", "2", 3), record("users", "1", 3)];
        assert_eq!(verdict(right()), Ok(()));
        assert_eq!(verdict(right().split_off(1)), Err(Failure("missing")));
        for (place, wrong) in [
            (0, record("items", "9", 2)),
            (0, record("users", "2", 3)),
            (0, record("others", "1", 2)),
            (1, record("users", "2", 2)),
            (2, record("users", "1", 4)),
        ] {
            let mut records = right();
            records[place] = wrong;
            assert_eq!(verdict(records), Err(Failure("wrong")));
        }
        let mut hollow = right();
        hollow[0].record[0].value = None;
        assert_eq!(verdict(hollow), Err(Failure("wrong")));
    }

    #[test]
    fn partial_answers_are_errors() {
        let error = BatchError { code: "overloaded".to_owned(), ..BatchError::default() };
        let answer = BatchGetRecordResponse { errors: vec![error], ..BatchGetRecordResponse::default() };
        assert_eq!(check(&keys(), &[3, 2], &answer), Err(Failure("overloaded")));
        let answer = BatchGetRecordResponse { unprocessed: keys(), ..BatchGetRecordResponse::default() };
        assert_eq!(check(&keys(), &[3, 2], &answer), Err(Failure("unprocessed")));
    }

    /// The right answer to [`keys`], of three and two features.
    fn columns() -> GetFeaturesResponse {
        let of_group = |group: &str, records: &[&str], features: usize| {
            let values = Some(Values::Integers(Integers { values: vec![7; records.len()] }));
            let column =
                |n| FeatureColumn { name: format!("i{n}"), values: values.clone(), ..FeatureColumn::default() };
            let lengths = records.iter().map(|record| u32::try_from(record.len()).expect("short")).collect();
            let echo = Some(Values::Texts(Texts { data: records.concat(), lengths }));
            let echo = FeatureColumn { name: IDENTIFIER.to_owned(), values: echo, ..FeatureColumn::default() };
            FeatureColumns {
                feature_group: group.to_owned(),
                statuses: vec![EntityStatus::Found.into(); records.len()],
                columns: std::iter::once(echo).chain((1..features).map(column)).collect(),
                ..FeatureColumns::default()
            }
        };
        GetFeaturesResponse { selections: vec![of_group("users", &["1", "2"], 3), of_group("items", &["1"], 2)] }
    }

    #[test]
    fn only_the_right_columns_are_good() {
        let verdict = |answer: GetFeaturesResponse| check_columns(&keys(), &[3, 2], &answer);
        assert_eq!(verdict(columns()), Ok(()));
        type Spoil = fn(&mut GetFeaturesResponse);
        let spoils: [(Spoil, &'static str); 8] = [
            (|answer| drop(answer.selections.pop()), "wrong"),
            (|answer| answer.selections.reverse(), "wrong"),
            (|answer| drop(answer.selections[0].columns.pop()), "wrong"),
            (|answer| answer.selections[0].statuses.truncate(1), "wrong"),
            (|answer| answer.selections[0].statuses[1] = EntityStatus::NotFound.into(), "missing"),
            (|answer| answer.selections[1].columns[1].present = vec![0].into(), "wrong"),
            (|answer| answer.selections[1].columns[1].values = None, "wrong"),
            (
                |answer| {
                    let swapped = Texts { data: "21".to_owned(), lengths: vec![1, 1] };
                    answer.selections[0].columns[0].values = Some(Values::Texts(swapped));
                },
                "wrong",
            ),
        ];
        for (place, (spoil, kind)) in spoils.into_iter().enumerate() {
            let mut answer = columns();
            spoil(&mut answer);
            assert_eq!(verdict(answer), Err(Failure(kind)), "{place}");
        }
        let mut partial = columns();
        partial.selections[0].failures.push(EntityFailure { code: "overloaded".to_owned(), ..Default::default() });
        assert_eq!(verdict(partial), Err(Failure("overloaded")));
    }
}
