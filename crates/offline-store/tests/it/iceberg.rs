//! Tables that are shown as Iceberg too: what is published is what the Delta log says, whoever publishes and dies when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use apache_avro::Reader;
use apache_avro::types::Value as Avro;
use arrow::datatypes::DataType;
use deltalake_core::kernel::transaction::{CommitBuilder, TableReference};
use deltalake_core::kernel::{Action, Add};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt;
use granary_offline_store::{Error, OfflineTable, Options, Settings, Warehouse, is_proposal};
use granary_types::{FeatureGroup, FeatureType};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use url::Url;

use crate::faults::{Faults, FaultyStore};
use crate::support::{append, group, group_of, put, simple, stream, warehouse};

const ABOVE: &str = "warehouse/lake/features/123/sagemaker/eu/offline-store/customers-1";

fn iceberg(mut group: FeatureGroup) -> FeatureGroup {
    group.offline.as_mut().expect("offline").table_format = Some("Iceberg".into());
    group
}

/// What reads the metadata by nothing but its bytes.
struct Eye(Arc<dyn ObjectStore>);

impl Eye {
    async fn names(&self, below: &str) -> BTreeSet<String> {
        let prefix = Path::from(format!("{ABOVE}/{below}"));
        let objects: Vec<_> = self.0.list(Some(&prefix)).try_collect().await.expect("a listing");
        objects.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect()
    }

    async fn numbers(&self) -> BTreeSet<u64> {
        let names = self.names("metadata").await;
        let number = |name: &String| name.strip_prefix('v')?.strip_suffix(".metadata.json")?.parse().ok();
        names.iter().filter_map(number).collect()
    }

    async fn bytes(&self, path: &str) -> Vec<u8> {
        let found = self.0.get(&Path::from(path)).await.expect(path);
        found.bytes().await.expect("readable").to_vec()
    }

    async fn document(&self, number: u64) -> Value {
        let bytes = self.bytes(&format!("{ABOVE}/metadata/v{number}.metadata.json")).await;
        serde_json::from_slice(&bytes).expect("json")
    }

    async fn newest(&self) -> Value {
        let newest = *self.numbers().await.last().expect("a document");
        let hint = self.bytes(&format!("{ABOVE}/metadata/version-hint.text")).await;
        assert_eq!(hint, newest.to_string().into_bytes(), "the hint names the newest");
        self.document(newest).await
    }

    async fn avro(&self, uri: &str) -> Vec<BTreeMap<String, Avro>> {
        let path = uri.strip_prefix("memory:///").unwrap_or_else(|| panic!("{uri} is in the store"));
        let bytes = self.bytes(path).await;
        let records = Reader::new(bytes.as_slice()).expect("avro").map(|record| members(record.expect("a record")));
        records.collect()
    }

    /// Paths and rows of the files of a snapshot.
    async fn files(&self, snapshot: &Value) -> BTreeMap<String, i64> {
        let mut files = BTreeMap::new();
        for manifest in self.avro(snapshot["manifest-list"].as_str().expect("a list")).await {
            let entries = self.avro(text(&manifest["manifest_path"])).await;
            let (added, existing) = (number(&manifest["added_files_count"]), number(&manifest["existing_files_count"]));
            assert_eq!(added + existing, i64::try_from(entries.len()).expect("few"));
            for entry in entries {
                let (status, brought) = (number(&entry["status"]), number(&entry["snapshot_id"]));
                let written_for = number(&manifest["added_snapshot_id"]);
                assert_eq!(status == 1, brought == written_for, "added by the snapshot it was written for");
                assert!(brought >= number(&manifest["min_sequence_number"]));
                let file = members(entry["data_file"].clone());
                let rows = number(&file["record_count"]);
                let twice = files.insert(text(&file["file_path"]).to_owned(), rows);
                assert_eq!(twice, None, "a file is named once");
            }
        }
        let told = |key: &str| snapshot["summary"][key].as_str().and_then(|sum| sum.parse::<i64>().ok());
        assert_eq!(told("total-records"), Some(files.values().sum()));
        assert_eq!(told("total-data-files"), i64::try_from(files.len()).ok());
        files
    }

    async fn current(&self, document: &Value) -> BTreeMap<String, i64> {
        let snapshots = document["snapshots"].as_array().expect("snapshots");
        let current = snapshots.iter().find(|one| one["snapshot-id"] == document["current-snapshot-id"]);
        match current {
            Some(current) => self.files(current).await,
            None => BTreeMap::new(),
        }
    }
}

fn members(value: Avro) -> BTreeMap<String, Avro> {
    match value {
        Avro::Record(members) => members.into_iter().collect(),
        other => panic!("{other:?} is no record"),
    }
}

fn number(value: &Avro) -> i64 {
    match value {
        Avro::Int(number) => i64::from(*number),
        Avro::Long(number) => *number,
        Avro::Union(_, inner) => number(inner),
        other => panic!("{other:?} is no number"),
    }
}

fn text(value: &Avro) -> &str {
    match value {
        Avro::String(text) => text,
        other => panic!("{other:?} is no text"),
    }
}

/// Paths and rows of the files in the Delta log.
fn in_the_log(table: &OfflineTable) -> BTreeMap<String, i64> {
    let views = table.delta().snapshot().expect("loaded").log_data();
    let files = views.iter().map(|view| {
        let rows = i64::try_from(view.num_records().expect("counted")).expect("few");
        (format!("memory:///{ABOVE}/data/{}", view.path()), rows)
    });
    files.collect()
}

async fn one_more(table: &mut OfflineTable, group: &FeatureGroup, sequence: u64) {
    let hour = u32::try_from(sequence % 24).expect("small");
    append(table, sequence - 1, vec![simple(group, stream(1), sequence, "a", hour)]).await.expect("a commit");
}

async fn assert_shown(eye: &Eye, table: &mut OfflineTable) -> Value {
    table.refresh().await.expect("newest");
    let document = eye.newest().await;
    assert_eq!(document["properties"]["granary.delta-version"], table.version().to_string());
    assert_eq!(eye.current(&document).await, in_the_log(table));
    document
}

#[tokio::test]
async fn files_lie_and_are_numbered_as_iceberg_wants_them() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    assert_eq!(warehouse.iceberg_metadata_location(&group).await.expect("a look"), None);
    let mut table = warehouse.table(&group).await.expect("a table");
    assert_eq!(table.publish_iceberg().await.expect("published"), Some(0), "an empty table can be read too");
    assert_eq!(eye.newest().await["snapshots"], Value::Array(Vec::new()));

    let texts = [("id", "a"), ("at", "2024-01-31T08:30:00.5Z"), ("tags", "x|y")];
    let rows = vec![put(&group, stream(1), 1, &texts), simple(&group, stream(1), 2, "b", 9)];
    append(&mut table, 0, rows).await.expect("a commit");
    assert_eq!(table.publish_iceberg().await.expect("published"), Some(1));
    let document = assert_shown(&eye, &mut table).await;
    let files: Vec<String> = in_the_log(&table).into_keys().collect();
    assert_eq!(files.len(), 1, "a day's rows share a file");
    let path = files[0].strip_prefix(&format!("memory:///{ABOVE}/data/")).expect("below data");
    let parts: Vec<&str> = path.split('/').collect();
    assert_eq!(parts.len(), 3);
    assert!(parts[0].len() == 8 && parts[0].bytes().all(|byte| byte.is_ascii_alphanumeric()), "{path}");
    assert_eq!(parts[1], "at_trunc=2024-01-31");

    assert_eq!(document["location"], "s3://lake/features/123/sagemaker/eu/offline-store/customers-1");
    assert_eq!(document["partition-specs"][0]["fields"][0]["transform"], "truncate[10]");
    assert_eq!(
        warehouse.iceberg_metadata_location(&group).await.expect("a look").as_deref(),
        Some("s3://lake/features/123/sagemaker/eu/offline-store/customers-1/metadata/v1.metadata.json")
    );
    let bytes = bytes::Bytes::from(eye.bytes(files[0].strip_prefix("memory:///").expect("in the store")).await);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet");
    for field in document["schemas"][0]["fields"].as_array().expect("fields") {
        let column = reader.schema().field_with_name(field["name"].as_str().expect("a name")).expect("in the file");
        assert_eq!(column.metadata()[PARQUET_FIELD_ID_META_KEY], field["id"].to_string());
        if let DataType::List(element) = column.data_type() {
            assert_eq!(element.metadata()[PARQUET_FIELD_ID_META_KEY], field["type"]["element-id"].to_string());
        }
    }
    let one = &eye.avro(document["snapshots"][0]["manifest-list"].as_str().expect("a list")).await[0];
    let entry = &eye.avro(text(&one["manifest_path"])).await[0];
    let file = members(entry["data_file"].clone());
    let Avro::Union(1, lower) = &file["lower_bounds"] else { panic!("the event time has a bound") };
    let micros = 1_706_689_800_500_000_i64.to_le_bytes().to_vec();
    assert!(format!("{lower:?}").contains(&format!("{:?}", Avro::Bytes(micros))), "{lower:?}");
}

#[tokio::test]
async fn other_tables_have_neither_metadata_nor_numbers() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = group();
    let mut table = warehouse.table(&group).await.expect("a table");
    one_more(&mut table, &group, 1).await;
    table.refresh().await.expect("newest");
    assert_eq!(table.publish_iceberg().await.expect("nothing to do"), None);
    assert_eq!(eye.names("metadata").await.len(), 0);
    assert_eq!(warehouse.iceberg_metadata_location(&group).await.expect("a look"), None);
    let uri = in_the_log(&table).into_keys().next().expect("a file");
    assert!(uri.contains("/data/year=2024/month=01/day=31/hour=01/"), "{uri}");
    let bytes = bytes::Bytes::from(eye.bytes(uri.strip_prefix("memory:///").expect("in the store")).await);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet");
    assert!(reader.schema().fields().iter().all(|field| field.metadata().is_empty()));
}

#[tokio::test]
async fn every_snapshot_is_what_the_log_said_then() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    let mut said = BTreeMap::new();
    // Every third commit is not published on its own. Enough for manifests to be merged twice.
    for sequence in 1..=50 {
        one_more(&mut table, &group, sequence).await;
        if sequence % 3 > 0 {
            assert_eq!(table.publish_iceberg().await.expect("published"), Some(sequence));
            said.insert(sequence, in_the_log(&table));
        }
    }
    let document = assert_shown(&eye, &mut table).await;
    let snapshots = document["snapshots"].as_array().expect("snapshots");
    assert_eq!(snapshots.len(), said.len());
    for snapshot in snapshots.iter().rev().step_by(5) {
        let id = snapshot["snapshot-id"].as_u64().expect("a number");
        assert_eq!(eye.files(snapshot).await, said[&id], "snapshot {id}");
    }
    let list = snapshots.last().expect("one")["manifest-list"].as_str().expect("a list");
    let manifests = eye.avro(list).await.len();
    assert!(manifests < 2 + 16, "{manifests} manifests for 34 snapshots");
    assert_eq!(table.publish_iceberg().await.expect("a look"), None);
}

#[tokio::test]
async fn what_is_shown_is_right_whatever_put_fails_or_is_not_answered() {
    let group = iceberg(group());
    for answered in [false, true] {
        for fault in 0_usize.. {
            let faults = Arc::new(Faults::default());
            let store = Arc::new(FaultyStore { inner: Arc::new(InMemory::new()), faults: faults.clone() });
            let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
            let mut table = warehouse.table(&group).await.expect("a table");
            one_more(&mut table, &group, 1).await;
            table.publish_iceberg().await.expect("published");
            one_more(&mut table, &group, 2).await;
            let which = if answered { &faults.lose_metadata_answer } else { &faults.lose_metadata_request };
            which.store(fault + 1, Ordering::SeqCst);
            let failed = table.publish_iceberg().await.is_err();
            assert_eq!(failed, which.load(Ordering::SeqCst) == 0, "a failure is told");
            which.store(0, Ordering::SeqCst);
            // Another process makes up for it, with a commit more and without.
            let mut other = warehouse.table(&group).await.expect("the table");
            if fault % 2 == 0 {
                one_more(&mut other, &group, 3).await;
            }
            other.publish_iceberg().await.expect("published");
            assert_shown(&eye, &mut other).await;
            if !failed {
                assert!(fault >= 4, "manifest, list, document and hint were put: {fault}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn twins_never_show_what_the_log_does_not_say() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut writer = warehouse.table(&group).await.expect("a table");
    let mut publishers = Vec::new();
    for _ in 0..4 {
        publishers.push(warehouse.table(&group).await.expect("a table"));
    }
    let mut said = BTreeMap::from([(0, in_the_log(&writer))]);
    for sequence in 1..=30_u64 {
        let commit = async {
            one_more(&mut writer, &group, sequence).await;
            writer.refresh().await.expect("newest");
            in_the_log(&writer)
        };
        let publish = futures::future::join_all(publishers.iter_mut().map(OfflineTable::publish_iceberg));
        let (files, published) = futures::join!(commit, publish);
        said.insert(sequence, files);
        assert!(published.iter().all(Result::is_ok), "{published:?}");
    }
    publishers[0].publish_iceberg().await.expect("published");
    assert_shown(&eye, &mut writer).await;
    for number in eye.numbers().await {
        let document = eye.document(number).await;
        let version = document["properties"]["granary.delta-version"].as_str().and_then(|text| text.parse().ok());
        assert_eq!(version, Some(number));
        assert_eq!(eye.current(&document).await, said[&number], "document {number}");
    }
}

#[tokio::test]
async fn a_feature_that_is_added_gets_a_new_number_and_a_schema() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let before = [("id", FeatureType::String, false), ("at", FeatureType::String, false)];
    let after = [before[0], before[1], ("age", FeatureType::Integral, false)];
    let (before, after) = (iceberg(group_of(1, &before)), Arc::new(iceberg(group_of(2, &after))));
    let mut old = warehouse.table(&before).await.expect("a table");
    one_more(&mut old, &before, 1).await;
    old.publish_iceberg().await.expect("published");

    let mut new = warehouse.table(&before).await.expect("the table");
    new.adopt(&after).await.expect("a column more");
    assert_eq!(new.publish_iceberg().await.expect("published"), Some(2));
    let document = assert_shown(&eye, &mut new).await;
    assert_eq!(document["current-schema-id"], 2);
    assert_eq!(document["snapshots"].as_array().map(Vec::len), Some(1), "no file came");

    // One who does not know the feature yet writes on and takes nothing back.
    one_more(&mut old, &before, 2).await;
    assert_eq!(old.publish_iceberg().await.expect("published"), Some(3));
    let document = assert_shown(&eye, &mut new).await;
    assert_eq!(document["current-schema-id"], 2);
    let ids = |schema: usize| {
        let fields = document["schemas"][schema]["fields"].as_array().expect("fields").clone();
        let pairs = fields.into_iter().map(|field| (field["name"].to_string(), field["id"].as_i64()));
        pairs.collect::<BTreeMap<_, _>>()
    };
    let (first, second) = (ids(0), ids(1));
    assert!(first.iter().all(|(name, id)| second[name] == *id));
    assert_eq!(second.len(), first.len() + 1);
    assert!(second["\"age\""] > first.values().copied().max().flatten());
    assert!(document["properties"]["schema.name-mapping.default"].as_str().expect("a mapping").contains("\"age\""));
}

async fn commit(table: &OfflineTable, action: Action, mode: SaveMode) {
    let snapshot = table.delta().snapshot().expect("loaded");
    let operation = DeltaOperation::Write { mode, partition_by: None, predicate: None };
    let commit = CommitBuilder::default().with_actions(vec![action]);
    commit.build(Some(snapshot as &dyn TableReference), table.delta().log_store(), operation).await.expect("a commit");
}

#[tokio::test]
async fn files_of_no_known_day_are_shown_and_those_that_cannot_be_are_told() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    one_more(&mut table, &group, 1).await;
    table.publish_iceberg().await.expect("published");
    let stats = r#"{"numRecords": 7, "minValues": {"granary_event_time": "2024-01-01T00:00:00Z"}}"#;
    let theirs = Add { path: "part-0.parquet".into(), size: 9, data_change: true, ..Add::default() };
    commit(&table, Action::Add(Add { stats: Some(stats.into()), ..theirs.clone() }), SaveMode::Append).await;
    assert_eq!(table.publish_iceberg().await.expect("published"), Some(2));
    let document = assert_shown(&eye, &mut table).await;
    assert_eq!(document["partition-specs"][1], serde_json::json!({ "spec-id": 1, "fields": [] }));
    let list = document["snapshots"][1]["manifest-list"].as_str().expect("a list");
    let specs: Vec<i64> = eye.avro(list).await.iter().map(|one| number(&one["partition_spec_id"])).collect();
    assert_eq!(specs, [0, 1]);

    commit(&table, Action::Add(Add { path: "part-1.parquet".into(), ..theirs }), SaveMode::Append).await;
    let refused = table.publish_iceberg().await.expect_err("nobody says how many rows it has");
    assert!(matches!(&refused, Error::Iceberg { reason } if reason.contains("part-1.parquet")), "{refused}");
    assert_eq!(eye.newest().await, document, "what was shown stays");
}

#[tokio::test]
async fn files_that_went_are_not_shown() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    for sequence in 1..=3 {
        one_more(&mut table, &group, sequence).await;
        table.publish_iceberg().await.expect("published");
    }
    let views = table.delta().snapshot().expect("loaded").log_data();
    let gone = views.iter().next().expect("a file").remove_action(true);
    commit(&table, Action::Remove(gone), SaveMode::Overwrite).await;
    assert_eq!(table.publish_iceberg().await.expect("published"), Some(4));
    let document = assert_shown(&eye, &mut table).await;
    assert_eq!(in_the_log(&table).len(), 2);
    assert_eq!(document["snapshots"][3]["summary"]["operation"], "overwrite");
    assert_eq!(eye.files(&document["snapshots"][2]).await.len(), 3, "what was there can still be read");
}

#[tokio::test]
async fn another_log_in_the_place_is_shown_anew_under_a_greater_number() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store.clone()));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    for sequence in 1..=3 {
        one_more(&mut table, &group, sequence).await;
    }
    table.publish_iceberg().await.expect("published");
    let log = Path::from(format!("{ABOVE}/data/_delta_log"));
    let commits: Vec<_> = store.list(Some(&log)).try_collect().await.expect("a listing");
    for commit in commits {
        store.delete(&commit.location).await.expect("deleted");
    }
    let refused = table.publish_iceberg().await.expect_err("its log is gone");
    assert!(matches!(refused, Error::Replaced { .. }), "{refused}");

    let mut table = warehouse.table(&group).await.expect("another table");
    // As many commits as the one that was shown, then more.
    for sequence in 1..=5 {
        one_more(&mut table, &group, sequence).await;
        let number = table.publish_iceberg().await.expect("published").expect("a document");
        assert!(number > 3 && number > sequence, "{number}");
        let document = assert_shown(&eye, &mut table).await;
        assert_eq!(document["last-sequence-number"], number);
    }
}

#[tokio::test]
async fn no_two_columns_or_partition_fields_share_a_name_or_number() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    // Names that Avro does not allow, and one that the partition field would have.
    let features = [("1-id", "a"), ("at-1", "2024-01-31T08:30:00Z"), ("at-1_TRUNC", "x"), ("tags", "x|y")];
    let kinds = features.map(|(name, _)| (name, FeatureType::String, name == "tags"));
    let group = iceberg(group_of(1, &kinds));
    let mut table = warehouse.table(&group).await.expect("a table");
    append(&mut table, 0, vec![put(&group, stream(1), 1, &features)]).await.expect("a commit");
    table.publish_iceberg().await.expect("published");
    let document = assert_shown(&eye, &mut table).await;
    assert_eq!(document["partition-specs"][0]["fields"][0]["name"], "at-1_trunc_");
    let fields = document["schemas"][0]["fields"].as_array().expect("fields");
    let ids = fields.iter().flat_map(|field| [&field["id"], &field["type"]["element-id"]]).filter_map(Value::as_i64);
    let ids: Vec<i64> = ids.collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 10 + 4 + 1);
    assert!(document["last-column-id"].as_i64() >= ids.into_iter().max());
    let one = &eye.avro(document["snapshots"][0]["manifest-list"].as_str().expect("a list")).await[0];
    let entry = &eye.avro(text(&one["manifest_path"])).await[0];
    let partition = members(members(entry["data_file"].clone())["partition"].clone());
    assert_eq!(partition.keys().collect::<Vec<_>>(), ["at_x2D1_trunc_"]);
}

#[tokio::test]
async fn old_documents_and_what_only_they_named_go() {
    let store = Arc::new(InMemory::new());
    let settings = Settings { iceberg_snapshots_max: 5, ..Settings::default() };
    let options = Options { settings, ..Options::default() };
    let root = Url::parse("memory:///warehouse").expect("a URL");
    let warehouse = Warehouse::over(store.clone(), root, options).await.expect("a warehouse");
    let eye = Eye(store);
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    for sequence in 1..=40 {
        one_more(&mut table, &group, sequence).await;
        table.publish_iceberg().await.expect("published");
        let document = assert_shown(&eye, &mut table).await;
        assert!(eye.numbers().await.len() <= 5);
        for snapshot in document["snapshots"].as_array().expect("snapshots") {
            let id = snapshot["snapshot-id"].as_i64().expect("a number");
            assert_eq!(i64::try_from(eye.files(snapshot).await.len()).ok(), Some(id));
        }
        // 5 lists, and the manifests of up to 5 snapshots, of which merging lets go at most 16 at a time.
        let avro = eye.names("metadata").await.iter().filter(|name| name.ends_with(".avro")).count();
        assert!(avro <= 5 + 5 + 3 * 16, "{avro}");
    }
    assert_eq!(eye.newest().await["metadata-log"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn a_document_of_another_writer_is_followed_and_owed_nothing() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store.clone()));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    one_more(&mut table, &group, 1).await;
    table.publish_iceberg().await.expect("published");
    let foreign = Path::from(format!("{ABOVE}/metadata/v7.metadata.json"));
    store.put(&foreign, r#"{"format-version": 3}"#.into()).await.expect("put");
    assert_eq!(table.publish_iceberg().await.expect("published"), Some(8));
    assert_shown(&eye, &mut table).await;
}

#[tokio::test]
async fn a_file_that_the_log_names_twice_is_shown_once() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    one_more(&mut table, &group, 1).await;
    let stats = Some(r#"{"numRecords": 7}"#.to_owned());
    let theirs = Add { path: "part-0.parquet".into(), size: 9, data_change: true, stats, ..Add::default() };
    for _ in 0..2 {
        commit(&table, Action::Add(theirs.clone()), SaveMode::Append).await;
        table.publish_iceberg().await.expect("published");
        assert_shown(&eye, &mut table).await;
    }
    assert_eq!(in_the_log(&table).len(), 2);
}

#[tokio::test]
async fn a_path_of_another_program_that_names_a_day_proves_nothing() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    let stats = Some(r#"{"numRecords": 7}"#.to_owned());
    let path = "x7Kq0b2Z/at_trunc=2024-01-31/part-0.parquet".to_owned();
    let theirs = Add { path, size: 9, data_change: true, stats, ..Add::default() };
    commit(&table, Action::Add(theirs), SaveMode::Append).await;
    one_more(&mut table, &group, 1).await;
    table.publish_iceberg().await.expect("published");
    let document = assert_shown(&eye, &mut table).await;
    let list = document["snapshots"][0]["manifest-list"].as_str().expect("a list");
    let specs: BTreeSet<i64> = eye.avro(list).await.iter().map(|one| number(&one["partition_spec_id"])).collect();
    assert_eq!(specs, BTreeSet::from([0, 1]), "ours is of its day, theirs of none");
}

#[tokio::test]
async fn metadata_that_lost_manifests_begins_anew() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store.clone()));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    for (kind, sequences) in [("snap-", 1..=3_u64), ("manifest-", 4..=40)] {
        for sequence in sequences {
            one_more(&mut table, &group, sequence).await;
            table.publish_iceberg().await.expect("published");
            if sequence < 5 {
                for name in eye.names("metadata").await.into_iter().filter(|name| name.starts_with(kind)) {
                    store.delete(&Path::from(format!("{ABOVE}/metadata/{name}"))).await.expect("deleted");
                }
            }
        }
    }
    assert_shown(&eye, &mut table).await;
}

#[tokio::test]
async fn a_warehouse_that_was_copied_shows_its_own_files() {
    let store = Arc::new(InMemory::new());
    let (first, eye) = (warehouse(store.clone()).await, Eye(store.clone()));
    let group = iceberg(group());
    let mut table = first.table(&group).await.expect("a table");
    for sequence in 1..=2 {
        one_more(&mut table, &group, sequence).await;
        table.publish_iceberg().await.expect("published");
    }
    let objects: Vec<_> = store.list(Some(&Path::from("warehouse"))).try_collect().await.expect("a listing");
    for object in objects {
        let to = object.location.as_ref().replacen("warehouse/", "elsewhere/", 1);
        store.copy(&object.location, &Path::from(to)).await.expect("copied");
    }
    let root = Url::parse("memory:///elsewhere").expect("a URL");
    let second = Warehouse::over(store, root, Options::default()).await.expect("a warehouse");
    let mut copy = second.table(&group).await.expect("the table");
    for wanted in [Some(3), None] {
        assert_eq!(copy.publish_iceberg().await.expect("published"), wanted);
    }
    one_more(&mut copy, &group, 3).await;
    let newest = copy.publish_iceberg().await.expect("published").expect("a document");
    let above = ABOVE.replacen("warehouse/", "elsewhere/", 1);
    let document = eye.bytes(&format!("{above}/metadata/v{newest}.metadata.json")).await;
    let document: Value = serde_json::from_slice(&document).expect("json");
    let files = eye.current(&document).await;
    assert_eq!(files.len(), 3);
    assert!(files.keys().all(|uri| uri.starts_with("memory:///elsewhere/")), "{files:?}");
}

#[tokio::test]
async fn in_a_bucket_the_metadata_is_where_it_is_said_to_be() {
    let store = Arc::new(InMemory::new());
    let root = Url::parse("s3://warehouse/granary").expect("a URL");
    let warehouse = Warehouse::over(store.clone(), root, Options::default()).await.expect("a warehouse");
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    table.publish_iceberg().await.expect("published");
    let said = warehouse.iceberg_metadata_location(&group).await.expect("a look").expect("a document");
    let path = said.strip_prefix("s3://warehouse/").expect("in the bucket");
    store.head(&Path::from(path)).await.expect("it is there");
}

/// What an Iceberg client writes beside the newest document, and where it says that it read that one.
async fn proposal(warehouse: &Warehouse, group: &FeatureGroup, eye: &Eye, set: &[(&str, &str)]) -> (String, Value) {
    let location = warehouse.iceberg_metadata_location(group).await.expect("a look").expect("a document");
    let mut document = eye.newest().await;
    document["last-updated-ms"] = 4_000_000_000_000_u64.into();
    document["metadata-log"] = serde_json::json!([{ "timestamp-ms": 1, "metadata-file": location }]);
    for (key, value) in set {
        document["properties"][*key] = (*value).into();
    }
    (location, document)
}

fn bytes_of(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("json")
}

async fn users_properties(eye: &Eye) -> BTreeMap<String, String> {
    let document = eye.newest().await;
    let all = document["properties"].as_object().expect("properties").clone();
    let users = all.into_iter().filter(|(key, _)| !key.starts_with("granary.") && !key.starts_with("schema."));
    users.map(|(key, value)| (key, value.as_str().expect("a text").to_owned())).collect()
}

fn properties<const N: usize>(all: [(&str, &str); N]) -> BTreeMap<String, String> {
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

#[tokio::test]
async fn properties_that_users_set_are_kept_in_the_log_and_shown() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store.clone()));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    one_more(&mut table, &group, 1).await;
    table.publish_iceberg().await.expect("published");
    let (location, first) =
        proposal(&warehouse, &group, &eye, &[("read.split.target-size", "7"), ("write.delete.mode", "x")]).await;
    // What others committed since does not matter, published or not.
    one_more(&mut table, &group, 2).await;
    table.publish_iceberg().await.expect("published");
    one_more(&mut table, &group, 3).await;
    let mut client = warehouse.existing_table(&group).await.expect("opened").expect("a table");
    client.adopt_iceberg_properties(&location, &bytes_of(&first)).await.expect("adopted");
    let set = properties([("read.split.target-size", "7"), ("write.delete.mode", "x")]);
    assert_eq!(users_properties(&eye).await, set);
    let shown = assert_shown(&eye, &mut table).await;
    assert_eq!(eye.current(&shown).await.len(), 3);
    assert_eq!(table.iceberg_properties().expect("loaded"), set);

    // An answer that was lost, and the call again.
    let before = eye.numbers().await;
    client.adopt_iceberg_properties(&location, &bytes_of(&first)).await.expect("it is so");
    assert_eq!(eye.numbers().await, before);

    let (location, mut second) = proposal(&warehouse, &group, &eye, &[("read.split.target-size", "8")]).await;
    second["properties"].as_object_mut().expect("properties").remove("write.delete.mode");
    client.adopt_iceberg_properties(&location, &bytes_of(&second)).await.expect("adopted");
    let set = properties([("read.split.target-size", "8")]);
    assert_eq!(users_properties(&eye).await, set);

    // Written anew without an older document, as after a loss, they are there still.
    one_more(&mut table, &group, 4).await;
    let prefix = Path::from(format!("{ABOVE}/metadata"));
    let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.expect("a listing");
    for object in objects {
        store.delete(&object.location).await.expect("deleted");
    }
    table.publish_iceberg().await.expect("published");
    assert_shown(&eye, &mut table).await;
    assert_eq!(users_properties(&eye).await, set);
}

#[tokio::test]
async fn of_two_who_set_one_property_the_second_reads_again() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    table.publish_iceberg().await.expect("published");
    let mut of = Vec::new();
    for set in [("a", "1"), ("a", "2"), ("b", "3")] {
        of.push(proposal(&warehouse, &group, &eye, &[set]).await);
    }
    table.adopt_iceberg_properties(&of[0].0, &bytes_of(&of[0].1)).await.expect("adopted");
    let outdated = table.adopt_iceberg_properties(&of[1].0, &bytes_of(&of[1].1)).await;
    assert!(matches!(&outdated, Err(Error::IcebergOutdated { reason }) if reason.contains("\"a\"")), "{outdated:?}");
    table.adopt_iceberg_properties(&of[2].0, &bytes_of(&of[2].1)).await.expect("another property");
    assert_eq!(users_properties(&eye).await, properties([("a", "1"), ("b", "3")]));
    let gone = of[0].0.replace("/v0.", "/v7.");
    let outdated = table.adopt_iceberg_properties(&gone, &bytes_of(&of[1].1)).await;
    assert!(matches!(outdated, Err(Error::IcebergOutdated { .. })), "{outdated:?}");
}

/// Makes a document wrong.
type Spoil = Box<dyn Fn(&mut Value)>;

#[tokio::test]
async fn a_document_that_changes_more_than_properties_changes_nothing() {
    let store = Arc::new(InMemory::new());
    let (warehouse, eye) = (warehouse(store.clone()).await, Eye(store));
    let group = iceberg(group());
    let mut table = warehouse.table(&group).await.expect("a table");
    one_more(&mut table, &group, 1).await;
    table.publish_iceberg().await.expect("published");
    let (location, good) = proposal(&warehouse, &group, &eye, &[("a", "1")]).await;
    let version = table.version();
    let long = "x".repeat(5_000);
    let wrongs: Vec<(&str, Spoil)> = vec![
        ("table-uuid", Box::new(|document| document["table-uuid"] = "another".into())),
        ("location", Box::new(|document| document["location"] = "s3://elsewhere".into())),
        ("snapshots", Box::new(|document| document["snapshots"] = serde_json::json!([]))),
        ("current-snapshot-id", Box::new(|document| document["current-snapshot-id"] = 9.into())),
        ("current-schema-id", Box::new(|document| document["current-schema-id"] = 9.into())),
        ("refs", Box::new(|document| document["refs"]["audit"] = serde_json::json!({ "snapshot-id": 1 }))),
        ("statistics", Box::new(|document| document["statistics"] = serde_json::json!([{ "snapshot-id": 1 }]))),
        ("properties", Box::new(|document| document["properties"]["granary.delta-version"] = "9".into())),
        ("properties", Box::new(|document| document["properties"]["schema.name-mapping.default"] = "[]".into())),
        ("format version 2", Box::new(|document| *document = "text".into())),
        ("bytes", Box::new(move |document| document["properties"]["k"] = long.as_str().into())),
        ("bytes", Box::new(|document| document["properties"][""] = "v".into())),
        (
            "at most 100",
            Box::new(|document| {
                for n in 0..101 {
                    document["properties"][format!("k{n}")] = "v".into();
                }
            }),
        ),
    ];
    for (word, spoil) in wrongs {
        let mut document = good.clone();
        spoil(&mut document);
        let refused = table.adopt_iceberg_properties(&location, &bytes_of(&document)).await;
        assert!(
            matches!(&refused, Err(Error::IcebergProposal { reason }) if reason.contains(word)),
            "{word}: {refused:?}"
        );
    }
    for elsewhere in ["", "s3://lake/other/metadata/v1.metadata.json", "s3://lake/other/metadata/00001-x.metadata.json"]
    {
        let refused = table.adopt_iceberg_properties(elsewhere, &bytes_of(&good)).await;
        assert!(matches!(refused, Err(Error::IcebergProposal { .. })), "{elsewhere:?}: {refused:?}");
    }
    table.refresh().await.expect("newest");
    assert_eq!(table.version(), version);
    assert_eq!(users_properties(&eye).await, BTreeMap::new());
}

#[test]
fn proposals_are_told_by_their_names() {
    let uuid = "0f6ad1a9-5a3e-4f5e-8b7e-0a6a4c3f2d1b";
    assert!(
        is_proposal(&format!("00000-{uuid}.metadata.json")) && is_proposal(&format!("123456-{uuid}.metadata.json"))
    );
    for other in [
        "v1.metadata.json",
        "00000-x.metadata.json",
        "0-.metadata.json",
        "version-hint.text",
        &format!("00000-{uuid}.avro"),
    ] {
        assert!(!is_proposal(other), "{other}");
    }
}
