//! Databases and tables as AWS's data catalog names them.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, cast, ident, lit, when};
use datafusion::prelude::SessionContext;
use granary_catalog::CatalogView;
use granary_types::FeatureGroup;
use granary_types::feature_group::RESERVED_FEATURE_PREFIX;
use url::Url;

use super::functions::{FIELD, TIMESTAMP_LITERAL, timestamp};
use crate::sql::{QueryTables, WAREHOUSE_URL};

/// How the files of a table that a user made are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserFormat {
    /// Text with separators.
    Csv {
        /// Between fields.
        separator: u8,
        /// Around a field that has separators in it.
        quote: Option<u8>,
        /// Before a character that means itself: in quotes, where there are any.
        escape: Option<u8>,
        /// What stands for null. Without one nothing does, in a column of texts.
        null: Option<String>,
        /// Whether each file's first line is left out.
        header: bool,
    },
    /// Parquet, by the columns' names.
    Parquet,
    /// One JSON object a line.
    Json,
}

/// A table that a user made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTable {
    /// Names and types, in order.
    pub columns: Vec<(String, DataType)>,
    /// Its directory in the warehouse's object store, without a slash at either end. All files below are its rows.
    pub directory: String,
    /// How they are read.
    pub format: UserFormat,
}

/// Where a query finds tables that are no feature group's.
#[tonic::async_trait]
pub trait UserTables: Send + Sync + fmt::Debug {
    /// The table of this name, in lower case.
    ///
    /// # Errors
    /// When it cannot be told, or has a format that is not read here.
    async fn table(&self, database: &str, name: &str) -> Result<Option<UserTable>, granary_types::Error>;
}

/// The data catalog of one query.
#[derive(Debug)]
pub(crate) struct TrinoCatalog {
    catalog: Arc<CatalogView>,
    tables: Arc<QueryTables>,
    users: Arc<dyn UserTables>,
    /// Makes views; holds no tables.
    context: Context,
}

#[derive(Clone)]
struct Context(SessionContext);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

impl TrinoCatalog {
    pub(crate) fn new(
        catalog: Arc<CatalogView>,
        tables: Arc<QueryTables>,
        users: Arc<dyn UserTables>,
        context: SessionContext,
    ) -> Self {
        Self { catalog, tables, users, context: Context(context) }
    }
}

impl CatalogProvider for TrinoCatalog {
    fn schema_names(&self) -> Vec<String> {
        let groups = self.catalog.groups().filter_map(|group| Some(catalog_name(group)?.0.to_lowercase()));
        let names: std::collections::BTreeSet<String> = groups.chain(["default".to_owned()]).collect();
        names.into_iter().collect()
    }

    /// Any: whether a user's database is there is known when a table in it is asked for.
    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(Database {
            name: name.to_owned(),
            catalog: Arc::clone(&self.catalog),
            tables: Arc::clone(&self.tables),
            users: Arc::clone(&self.users),
            context: self.context.clone(),
        }))
    }
}

/// Database and table of a group's history, where it is in the data catalog.
fn catalog_name(group: &FeatureGroup) -> Option<(&str, &str)> {
    let entry = group.offline.as_ref().filter(|offline| !offline.disable_glue_table_creation)?.data_catalog.as_ref()?;
    Some((&entry.database, &entry.table))
}

#[derive(Debug)]
struct Database {
    name: String,
    catalog: Arc<CatalogView>,
    tables: Arc<QueryTables>,
    users: Arc<dyn UserTables>,
    context: Context,
}

impl Database {
    fn group(&self, name: &str) -> Option<&Arc<FeatureGroup>> {
        self.catalog.groups().find(|group| {
            catalog_name(group).is_some_and(|(database, table)| {
                database.eq_ignore_ascii_case(&self.name) && table.eq_ignore_ascii_case(name)
            })
        })
    }

    /// A group's table with the columns that SageMaker's has.
    async fn history(&self, group: &Arc<FeatureGroup>) -> Result<Arc<dyn TableProvider>> {
        let opened = self.tables.open(group).await;
        let table = opened.map_err(|error| DataFusionError::External(Box::new(granary_types::Error::from(error))))?;
        let schema = table.schema();
        let columns = schema.fields().iter().filter(|field| !field.name().starts_with(RESERVED_FEATURE_PREFIX));
        let columns = columns.map(|field| column(field));
        Ok(self.context.0.read_table(Arc::clone(&table))?.select(columns.collect::<Vec<_>>())?.into_view())
    }

    async fn made(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let found = self.users.table(&self.name, name).await;
        match found.map_err(|error| DataFusionError::External(Box::new(error)))? {
            None => Ok(None),
            Some(table) => self.listed(&table).map(Some),
        }
    }

    /// The files of a user's table. Fields of text files are read as texts and then given their types, so that an empty
    /// one is null where it cannot be a value.
    fn listed(&self, table: &UserTable) -> Result<Arc<dyn TableProvider>> {
        let as_text = matches!(table.format, UserFormat::Csv { .. });
        let kind = |kind: &DataType| if as_text { DataType::Utf8 } else { kind.clone() };
        let fields = table.columns.iter().map(|(name, of)| Field::new(name, kind(of), true));
        let options = ListingOptions::new(format(&table.format)).with_file_extension("");
        let config = ListingTableConfig::new(location(&table.directory)?)
            .with_listing_options(options)
            .with_schema(Arc::new(Schema::new(fields.collect::<Vec<_>>())));
        let files = self.context.0.read_table(Arc::new(ListingTable::try_new(config)?))?;
        if !as_text {
            return Ok(files.into_view());
        }
        let columns = table.columns.iter().map(|(name, kind)| self.typed(name, kind, &table.format));
        Ok(files.select(columns.collect::<Result<Vec<_>>>()?)?.into_view())
    }

    fn typed(&self, name: &str, kind: &DataType, format: &UserFormat) -> Result<Expr> {
        // The reader takes an empty text for null.
        let text = when(ident(name).is_null(), lit("")).otherwise(ident(name))?;
        let text = match format {
            UserFormat::Csv { null: Some(null), quote, escape, .. } => {
                let escape = escape.filter(|_| quote.is_none()).map_or_else(String::new, |c| char::from(c).to_string());
                self.call(FIELD, vec![text, lit(null.as_str()), lit(escape)])?
            }
            _ => text,
        };
        if *kind == DataType::Utf8 {
            return Ok(text.alias(name));
        }
        let parsed = match kind {
            DataType::Timestamp(..) => self.call(TIMESTAMP_LITERAL, vec![text.clone()])?,
            kind => cast(text.clone(), kind.clone()),
        };
        Ok(when(text.not_eq(lit("")), parsed).end()?.alias(name))
    }

    /// One of Trino's functions here.
    fn call(&self, name: &str, arguments: Vec<Expr>) -> Result<Expr> {
        match self.context.0.state().scalar_functions().get(name) {
            Some(function) => Ok(function.call(arguments)),
            None => Err(DataFusionError::Internal(format!("no function {name}"))),
        }
    }
}

/// A column under its name in the data catalog. Times are Trino's `timestamp`, which has no zone.
fn column(field: &Field) -> Expr {
    let column = ident(field.name());
    let column = match field.data_type() {
        DataType::Timestamp(_, Some(_)) => cast(column, timestamp()),
        _ => column,
    };
    column.alias(field.name().to_lowercase())
}

fn format(format: &UserFormat) -> Arc<dyn FileFormat> {
    match format {
        UserFormat::Parquet => Arc::new(ParquetFormat::default()),
        UserFormat::Json => Arc::new(JsonFormat::default()),
        UserFormat::Csv { separator, quote, escape, header, null: _ } => Arc::new(
            CsvFormat::default()
                .with_has_header(*header)
                .with_delimiter(*separator)
                // A byte that no text has stands for none.
                .with_quote(quote.unwrap_or(0xFF))
                .with_escape(*escape)
                .with_newlines_in_values(quote.is_some())
                .with_truncated_rows(true),
        ),
    }
}

fn location(directory: &str) -> Result<ListingTableUrl> {
    let mut url = Url::parse(WAREHOUSE_URL).map_err(|error| DataFusionError::External(Box::new(error)))?;
    url.path_segments_mut()
        .map_err(|()| DataFusionError::Internal("the warehouse's URL has no path".to_owned()))?
        .pop_if_empty()
        .extend(directory.split('/'))
        .push("");
    ListingTableUrl::try_new(url, None)
}

#[tonic::async_trait]
impl SchemaProvider for Database {
    /// The feature groups'; users' tables are listed by `SHOW TABLES` and by Glue.
    fn table_names(&self) -> Vec<String> {
        let names = self.catalog.groups().filter_map(|group| catalog_name(group));
        names
            .filter(|(database, _)| database.eq_ignore_ascii_case(&self.name))
            .map(|(_, table)| table.to_lowercase())
            .collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.group(name) {
            Some(group) => self.history(group).await.map(Some),
            None => self.made(name).await,
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.group(name).is_some()
    }
}
