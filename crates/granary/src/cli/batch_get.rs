//! `granary batch-get`.

use granary_proto::v1::{BatchGetRecordRequest, BatchGetRecordResponse, RecordKeys};
use granary_types::{Error, ErrorKind};
use serde_json::json;

use super::args::BatchGetArgs;
use super::{Context, record};

pub(super) async fn run(context: &Context, args: BatchGetArgs) -> anyhow::Result<()> {
    let keys = parse_keys(&args.keys, &args.features)?;
    let request = BatchGetRecordRequest { keys, consistency: Some(args.consistency.to_wire()) };
    let answer = context.client.store.clone().batch_get_record(request).await;
    let answer = answer.map_err(|status| context.client.error(&status))?.into_inner();
    context.output.answer(|| text(&answer), || json(&answer))?;
    if let Some(error) = answer.errors.first() {
        return Err(record::error_of(error).into());
    }
    if !answer.unprocessed.is_empty() {
        return Err(Error::new(ErrorKind::Overloaded, "some records were not processed: ask again for them").into());
    }
    Ok(())
}

/// `GROUP RECORD…`, or any number of `GROUP/RECORD`.
fn parse_keys(keys: &[String], features: &[String]) -> Result<Vec<RecordKeys>, Error> {
    let group_of = |group: &str, records: Vec<String>| RecordKeys {
        feature_group: group.to_owned(),
        record_identifiers: records,
        feature_names: features.to_vec(),
    };
    // A group's name has no slash, so the first argument tells the two forms apart.
    if !keys[0].contains('/') {
        if keys.len() == 1 {
            return Err(Error::invalid(format!("which records of feature group {:?}?", keys[0])));
        }
        return Ok(vec![group_of(&keys[0], keys[1..].to_vec())]);
    }
    let mut parsed: Vec<RecordKeys> = Vec::new();
    for key in keys {
        let (group, record) =
            key.split_once('/').ok_or_else(|| Error::invalid(format!("{key:?} is not GROUP/RECORD")))?;
        match parsed.iter_mut().find(|keys| keys.feature_group == group) {
            Some(keys) => keys.record_identifiers.push(record.to_owned()),
            None => parsed.push(group_of(group, vec![record.to_owned()])),
        }
    }
    Ok(parsed)
}

fn text(answer: &BatchGetRecordResponse) -> String {
    let mut text = String::new();
    for found in &answer.records {
        text.push_str(&format!("{}/{}\n", found.feature_group, found.record_identifier));
        for line in record::to_text(&found.record).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text.push_str(&format!("{} found\n", answer.records.len()));
    text
}

fn json(answer: &BatchGetRecordResponse) -> serde_json::Value {
    let records = answer.records.iter().map(|found| {
        json!({
            "feature_group": found.feature_group,
            "record_identifier": found.record_identifier,
            "record": record::to_json(&found.record),
            "expires_at": (!found.expires_at.is_empty()).then_some(&found.expires_at),
        })
    });
    let errors = answer.errors.iter().map(|error| {
        json!({
            "feature_group": error.feature_group,
            "record_identifier": error.record_identifier,
            "kind": error.code,
            "message": error.message,
        })
    });
    let unprocessed = answer
        .unprocessed
        .iter()
        .map(|keys| json!({ "feature_group": keys.feature_group, "record_identifiers": keys.record_identifiers }));
    json!({
        "records": records.collect::<Vec<_>>(),
        "errors": errors.collect::<Vec<_>>(),
        "unprocessed": unprocessed.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(arguments: &[&str]) -> Result<Vec<(String, Vec<String>)>, Error> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let keys = parse_keys(&arguments, &[])?;
        Ok(keys.into_iter().map(|keys| (keys.feature_group, keys.record_identifiers)).collect())
    }

    #[test]
    fn both_forms_are_read() {
        let users = |records: &[&str]| ("users".to_owned(), records.iter().map(|&id| id.to_owned()).collect());
        assert_eq!(keys(&["users", "1", "a/b"]), Ok(vec![users(&["1", "a/b"])]));
        let both = vec![users(&["1", "2/x"]), ("cars".to_owned(), vec!["7".to_owned()])];
        assert_eq!(keys(&["users/1", "cars/7", "users/2/x"]), Ok(both));
        assert!(keys(&["users"]).is_err());
        assert!(keys(&["users/1", "2"]).is_err());
    }
}
