//! The data catalog: databases and tables, as AWS Glue tells of them.
//!
//! A feature group with an offline store is a table under the names of its data catalog, unless its creation said that
//! there should be none. Such tables come from the cluster's catalog and cannot be changed here, but for Iceberg's properties. Databases and tables that
//! users make are documents, `glue/databases/<name>` and `glue/tables/<database>/<name>`.
//!
//! No table has partitions: a feature group's history is read as a whole (contract 4.2).

mod groups;
mod iceberg;
mod operations;
mod shapes;

use std::sync::Arc;

use axum::body::Body;
use granary_api::aws::Call;
use granary_platform::Platform;
use granary_query::QueryService;
use granary_query::trino::{UserTable, UserTables};
use granary_types::{Error, ErrorKind, FeatureGroup};
use http::Response;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::athena::types::of_hive;
use crate::documents::Documents;
use crate::json::{Fault, respond};
use crate::place::Places;
use shapes::Storage;

/// The database of feature groups that name none. SDKs expect it before there is any group.
const FEATURE_STORE: &str = "sagemaker_featurestore";
/// The database of statements that name none.
pub(crate) const DEFAULT: &str = "default";

/// A table as it is kept: what the user said, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// `TableInput`, with lower-cased name.
    pub(crate) input: Map<String, Value>,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    pub(crate) version: u64,
}

/// A database as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Database {
    /// `DatabaseInput`, with lower-cased name.
    pub(crate) input: Map<String, Value>,
    pub(crate) created_ms: u64,
}

/// The data catalog. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Glue {
    platform: Platform,
    documents: Documents,
    query: QueryService,
    places: Arc<Places>,
}

fn store_failed(error: &object_store::Error) -> Fault {
    Fault::internal("InternalServiceException", error)
}

fn not_found(what: &str, name: &str) -> Fault {
    Fault::new("EntityNotFoundException", format!("{what} {name} not found."))
}

/// A database's or table's name, as Glue keeps it. It is one segment of a path.
fn folded(name: &str) -> Result<String, Fault> {
    let name = name.trim_matches('`').to_lowercase();
    let fits = (1..=200).contains(&name.len()) && !matches!(name.as_str(), "." | "..");
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte)) {
        return Ok(name);
    }
    Err(Fault::new("InvalidInputException", format!("{name:?} must be 1 to 200 letters, digits and _ - . $")))
}

impl Glue {
    pub(crate) fn new(platform: Platform, documents: Documents, query: QueryService, places: Arc<Places>) -> Self {
        Self { platform, documents, query, places }
    }

    pub(crate) async fn answer(&self, call: &Call) -> Response<Body> {
        let reply = self.run(call).await;
        if let Err(fault) = &reply {
            tracing::debug!(code = fault.code, message = fault.message, "refused");
        }
        respond(reply)
    }

    fn database_path(&self, name: &str) -> Path {
        self.documents.path(&["glue", "databases", name])
    }

    fn table_path(&self, database: &str, name: &str) -> Path {
        self.documents.path(&["glue", "tables", database, name])
    }

    /// Every database's name, sorted.
    pub(crate) async fn databases(&self) -> Result<Vec<String>, Fault> {
        let kept =
            self.documents.list(&self.documents.path(&["glue", "databases"])).await.map_err(|e| store_failed(&e))?;
        let catalog = self.query.catalog();
        let mut names: Vec<String> =
            kept.iter().filter_map(|meta| meta.location.filename().map(str::to_owned)).collect();
        names.extend(catalog.groups().filter_map(|group| Some(groups::name(group)?.0)));
        names.extend([DEFAULT.to_owned(), FEATURE_STORE.to_owned()]);
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    pub(crate) async fn has_database(&self, name: &str) -> Result<bool, Fault> {
        if [DEFAULT, FEATURE_STORE].contains(&name) {
            return Ok(true);
        }
        let catalog = self.query.catalog();
        if catalog.groups().any(|group| groups::name(group).is_some_and(|(database, _)| database == name)) {
            return Ok(true);
        }
        Ok(self.kept_database(name).await?.is_some())
    }

    async fn kept_database(&self, name: &str) -> Result<Option<Database>, Fault> {
        self.documents.get(&self.database_path(name)).await.map_err(|e| store_failed(&e))
    }

    pub(crate) async fn check_database(&self, name: &str) -> Result<(), Fault> {
        if self.has_database(name).await? { Ok(()) } else { Err(not_found("Database", name)) }
    }

    /// Every table's name in a database, sorted.
    pub(crate) async fn table_names(&self, database: &str) -> Result<Vec<String>, Fault> {
        let directory = self.documents.path(&["glue", "tables", database]);
        let kept = self.documents.list(&directory).await.map_err(|e| store_failed(&e))?;
        let mut names: Vec<String> =
            kept.iter().filter_map(|meta| meta.location.filename().map(str::to_owned)).collect();
        let catalog = self.query.catalog();
        let groups = catalog.groups().filter_map(|group| groups::name(group));
        names.extend(groups.filter(|(of, _)| of == database).map(|(_, table)| table));
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The feature group whose history a table is, if it is one's.
    fn group(&self, database: &str, name: &str) -> Option<Arc<FeatureGroup>> {
        groups::find(&self.query.catalog(), database, name)
    }

    /// A table: a feature group's, or one that was made.
    pub(crate) async fn table(&self, database: &str, name: &str) -> Result<Option<Table>, Fault> {
        if let Some(group) = self.group(database, name) {
            return Ok(Some(self.of_group(&group).await?));
        }
        self.kept_table(database, name).await
    }

    /// A group's table; of one that is kept as Iceberg too, with the place of its newest metadata, by which Iceberg's clients
    /// find all else.
    async fn of_group(&self, group: &FeatureGroup) -> Result<Table, Fault> {
        let warehouse = self.places.warehouse();
        let location = warehouse.iceberg_metadata_location(group).await;
        let location = location.map_err(|error| Fault::internal("InternalServiceException", &error))?;
        Ok(groups::table(group, location))
    }

    pub(crate) async fn kept_table(&self, database: &str, name: &str) -> Result<Option<Table>, Fault> {
        self.documents.get(&self.table_path(database, name)).await.map_err(|e| store_failed(&e))
    }

    /// Makes a table; `false` when there is one of that name.
    pub(crate) async fn create_table(&self, database: &str, input: Map<String, Value>) -> Result<bool, Fault> {
        self.check_database(database).await?;
        let name = folded(input.get("Name").and_then(Value::as_str).unwrap_or_default())?;
        if self.group(database, &name).is_some() {
            return Ok(false);
        }
        let now = self.platform.now_millis();
        let mut table = Table { input, created_ms: now, updated_ms: now, version: 0 };
        table.input.insert("Name".to_owned(), name.clone().into());
        self.documents.create(&self.table_path(database, &name), &table).await.map_err(|e| store_failed(&e))
    }

    /// Removes a table that was made; `false` when there is none.
    pub(crate) async fn delete_table(&self, database: &str, name: &str) -> Result<bool, Fault> {
        if let Some(group) = self.group(database, name) {
            let message = format!("the table is the history of feature group {:?}; delete that", group.name);
            return Err(Fault::new("InvalidInputException", message));
        }
        self.documents.delete(&self.table_path(database, name)).await.map_err(|e| store_failed(&e))
    }

    /// Makes a database; `false` when there is one of that name.
    pub(crate) async fn create_database(&self, mut input: Map<String, Value>) -> Result<bool, Fault> {
        let name = folded(input.get("Name").and_then(Value::as_str).unwrap_or_default())?;
        if self.has_database(&name).await? {
            return Ok(false);
        }
        input.insert("Name".to_owned(), name.clone().into());
        let database = Database { input, created_ms: self.platform.now_millis() };
        self.documents.create(&self.database_path(&name), &database).await.map_err(|e| store_failed(&e))
    }

    /// Removes a database that was made, with its tables; `false` when there is none.
    pub(crate) async fn delete_database(&self, name: &str) -> Result<bool, Fault> {
        if self.kept_database(name).await?.is_none() {
            return Ok(false);
        }
        let tables = self.documents.path(&["glue", "tables", name]);
        self.documents.delete_all(&tables).await.map_err(|e| store_failed(&e))?;
        self.documents.delete(&self.database_path(name)).await.map_err(|e| store_failed(&e))
    }

    /// A table that was made, as queries read it.
    fn readable(&self, table: &Table) -> Result<UserTable, String> {
        let storage = Storage::of(&table.input)?;
        if storage.partitioned {
            return Err("tables with partitions are not read".to_owned());
        }
        let mut columns = Vec::with_capacity(storage.columns.len());
        for (name, kind) in &storage.columns {
            let of = of_hive(kind).ok_or_else(|| format!("column {name:?} has type {kind:?}, which is not read"))?;
            columns.push((name.to_lowercase(), of));
        }
        let directory = self.places.table_directory(&storage.location).map_err(|error| error.to_string())?;
        Ok(UserTable { columns, directory, format: storage.format()? })
    }
}

#[tonic::async_trait]
impl UserTables for Glue {
    async fn table(&self, database: &str, name: &str) -> Result<Option<UserTable>, Error> {
        let (Ok(database), Ok(name)) = (folded(database), folded(name)) else { return Ok(None) };
        let kept = self.kept_table(&database, &name).await;
        let Some(table) = kept.map_err(|fault| Error::new(ErrorKind::Unavailable, fault.message))? else {
            return Ok(None);
        };
        let readable = self.readable(&table);
        readable.map(Some).map_err(|why| Error::invalid(format!("table {database}.{name} cannot be read: {why}")))
    }
}
