//! What goes into a row comes out of it, and what is no row is refused.

use granary_row::{Error, FORMAT_VERSION, RowView, ValueRef, decode, encode, encode_delete, project};
use granary_types::{
    EventTime, Feature, FeatureGroup, FeatureGroupId, FeatureGroupStatus, FeatureOrdinal, FeatureType, FeatureValue,
    OnlineConfig, Record, RecordIdentifier, Schema, SchemaVersion, Ttl, TtlUnit, Value,
};
use proptest::prelude::*;

fn feature(ordinal: u16, name: &str, kind: FeatureType) -> Feature {
    Feature::new(FeatureOrdinal(ordinal), name, kind)
}

fn parsed(kind: FeatureType, text: &str) -> FeatureValue {
    FeatureValue::parse(&feature(0, "f", kind), text).expect("of the type")
}

fn record(values: Vec<(u16, FeatureValue)>, ttl: Option<Ttl>) -> Record {
    Record {
        identifier: RecordIdentifier::new("id").expect("short"),
        event_time: EventTime::MIN,
        values: values.into_iter().map(|(ordinal, value)| (FeatureOrdinal(ordinal), value)).collect(),
        ttl,
    }
}

/// Values as they come from parsing, with canonical texts and others.
fn values() -> impl Strategy<Value = FeatureValue> {
    let integral = (any::<i64>(), 0_usize..3).prop_map(|(number, zeros)| {
        let sign = if number < 0 { "-" } else { "" };
        parsed(FeatureType::Integral, &format!("{sign}{}{}", "0".repeat(zeros), number.unsigned_abs()))
    });
    let fractional = (any::<f64>(), 0_usize..3).prop_filter("finite", |(number, _)| number.is_finite()).prop_map(
        |(number, style)| {
            let text = match style {
                0 => number.to_string(),
                1 => format!("{number:e}"),
                _ => format!("{number:.20}"),
            };
            parsed(FeatureType::Fractional, &text)
        },
    );
    let text = any::<String>().prop_map(|text| parsed(FeatureType::String, &text));
    let collection = proptest::collection::vec(any::<String>(), 0..5)
        .prop_map(|texts| FeatureValue { value: Value::Collection(texts), original: None });
    prop_oneof![integral, fractional, text, collection]
}

fn records() -> impl Strategy<Value = Record> {
    let ttl = proptest::option::of((1_u32..).prop_map(|value| Ttl::new(TtlUnit::Weeks, value).expect("positive")));
    (proptest::collection::btree_map(0_u16..200, values(), 0..30), ttl)
        .prop_map(|(values, ttl)| record(values.into_iter().collect(), ttl))
}

/// Reads all that can be read, to see that nothing panics.
fn read_all(bytes: &[u8]) -> Result<usize, Error> {
    let view = RowView::open(bytes)?;
    let present = view.present().count();
    assert_eq!(decode(bytes)?.len(), present);
    for (ordinal, value) in view.values() {
        assert_eq!(view.value(ordinal).map(|value| value.text()), Some(value.text()));
    }
    let half: Vec<_> = view.present().step_by(2).collect();
    assert_eq!(RowView::open(&project(bytes, &half)?)?.present().collect::<Vec<_>>(), half);
    Ok(format!("{view:?}").len())
}

proptest! {
    #[test]
    fn every_value_and_its_text_come_back(record in records(), version: u32) {
        let bytes = encode(&record, SchemaVersion(version));
        let view = RowView::open(&bytes).expect("just encoded");
        prop_assert_eq!(view.schema_version(), SchemaVersion(version));
        prop_assert_eq!(view.ttl_seconds(), record.ttl.map(|ttl| ttl.seconds()));
        prop_assert_eq!(&decode(&bytes).expect("just encoded"), &record.values);
        for (ordinal, value) in &record.values {
            let read = view.value(*ordinal).expect("present");
            prop_assert_eq!(&read.to_value(), value);
            if let Some(text) = value.text() {
                prop_assert_eq!(read.text(), text);
            }
        }
        let present: Vec<_> = record.values.iter().map(|(ordinal, _)| *ordinal).collect();
        for ordinal in (0..300).map(FeatureOrdinal) {
            prop_assert_eq!(view.value(ordinal).is_some(), present.contains(&ordinal));
        }
        prop_assert_eq!(view.present().collect::<Vec<_>>(), present);
    }

    #[test]
    fn a_projection_is_the_row_of_the_subset(record in records(), wanted in proptest::collection::vec(0_u16..220, 0..40)) {
        let ordinals: Vec<_> = wanted.iter().copied().map(FeatureOrdinal).collect();
        let mut subset = record.clone();
        subset.values.retain(|(ordinal, _)| ordinals.contains(ordinal));
        let projected = project(&encode(&record, SchemaVersion(3)), &ordinals).expect("just encoded");
        prop_assert_eq!(projected, encode(&subset, SchemaVersion(3)));
    }

    #[test]
    fn a_row_is_read_wherever_it_lies(record in records(), shift in 0_usize..16) {
        let mut bytes = vec![0; shift];
        bytes.extend_from_slice(&encode(&record, SchemaVersion(1)));
        prop_assert_eq!(decode(&bytes[shift..]).expect("just encoded"), record.values);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), format: bool) {
        if let (true, Some(first)) = (format, bytes.first_mut()) {
            *first = FORMAT_VERSION;
        }
        let _ = read_all(&bytes);
    }

    #[test]
    fn a_cut_row_never_panics(record in records(), cut: prop::sample::Index) {
        let bytes = encode(&record, SchemaVersion(1));
        let _ = read_all(&bytes[..cut.index(bytes.len())]);
        let _ = read_all(&bytes[cut.index(bytes.len())..]);
    }

    #[test]
    fn a_damaged_row_never_panics(
        record in records(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let mut bytes = encode(&record, SchemaVersion(1)).to_vec();
        for (place, flip) in damage {
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
        }
        let _ = read_all(&bytes);
    }
}

/// Every single damaged byte of a small row, with every bit.
#[test]
fn each_flipped_bit_is_refused_or_read() {
    let bytes = encode(&sample(), SchemaVersion(1));
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1 << bit;
            let _ = read_all(&damaged);
        }
    }
}

fn sample() -> Record {
    let values = vec![
        (0, parsed(FeatureType::String, "customer-000017")),
        (1, parsed(FeatureType::String, "2024-01-31T08:30:00Z")),
        (3, parsed(FeatureType::Integral, "007")),
        (4, parsed(FeatureType::Fractional, "15.20")),
        (5, parsed(FeatureType::Integral, "25")),
        (7, FeatureValue { value: Value::Collection(vec!["a".into(), "bcdefghij".into()]), original: None }),
    ];
    record(values, Some(Ttl::new(TtlUnit::Minutes, 2).expect("positive")))
}

/// The bytes of format version 1. When this fails the format has changed: raise `FORMAT_VERSION` and keep reading
/// the old one.
#[test]
fn the_format_stays() {
    let hex: String = encode(&sample(), SchemaVersion(9)).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("row-v1.hex").trim());
}

#[test]
fn unknown_formats_and_nothing_are_refused() {
    assert_eq!(RowView::open(&[]).expect_err("empty"), Error::Corrupt("it is empty".into()));
    assert_eq!(RowView::open(&[9, 1, 2, 3]).expect_err("later"), Error::UnknownFormat(9));
}

#[test]
fn an_absent_feature_costs_one_byte() {
    let with_gap = |gap: u16| encode(&record(vec![(gap, parsed(FeatureType::Integral, "1"))], None), SchemaVersion(1));
    assert_eq!(with_gap(100).len() - with_gap(0).len(), 100);
}

fn group(identifier: u16, event_time: u16, event_kind: FeatureType) -> FeatureGroup {
    let features = vec![
        feature(0, "amount", FeatureType::Integral),
        feature(1, "when", event_kind),
        feature(2, "who", FeatureType::Integral),
    ];
    FeatureGroup {
        id: FeatureGroupId(1),
        name: "orders".into(),
        schema: Schema::new(SchemaVersion(4), features).expect("valid"),
        record_identifier: FeatureOrdinal(identifier),
        event_time: FeatureOrdinal(event_time),
        online: Some(OnlineConfig::default()),
        offline: None,
        throughput: None,
        role_arn: None,
        description: None,
        tags: Default::default(),
        created_at_ms: 0,
        updated_at_ms: 0,
        status: FeatureGroupStatus::Created,
    }
}

#[test]
fn a_delete_holds_identifier_and_event_time_only() {
    let id = RecordIdentifier::new("0042").expect("short");
    let group = group(2, 1, FeatureType::String);
    let bytes = encode_delete(&group, &id, "2024-01-31T08:30:00Z").expect("valid");
    let view = RowView::open(&bytes).expect("just encoded");
    assert_eq!(view.schema_version(), SchemaVersion(4));
    assert_eq!(view.present().collect::<Vec<_>>(), [FeatureOrdinal(1), FeatureOrdinal(2)]);
    assert_eq!(view.value(FeatureOrdinal(2)).expect("present").text(), "0042");
    assert!(matches!(view.value(FeatureOrdinal(1)), Some(ValueRef::String("2024-01-31T08:30:00Z"))));
    assert!(encode_delete(&group, &RecordIdentifier::new("x").expect("short"), "t").is_err());
}

#[test]
fn one_feature_may_be_identifier_and_event_time() {
    let id = RecordIdentifier::new("1700000000.50").expect("short");
    let group = group(1, 1, FeatureType::Fractional);
    let bytes = encode_delete(&group, &id, "1700000000.5").expect("valid");
    let values = decode(&bytes).expect("just encoded");
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].1.text().as_deref(), Some("1700000000.50"));
}
