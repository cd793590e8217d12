//! The catalog of feature groups as DataFusion asks for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::TableType;
use granary_catalog::CatalogView;
use granary_types::FeatureGroup;

use super::SCHEMA;
use super::tables::QueryTables;

/// Schemas: the groups by their own names, and one for each database of their data catalogs.
#[derive(Debug)]
pub(super) struct GroupCatalog {
    catalog: Arc<CatalogView>,
    tables: Arc<QueryTables>,
}

impl GroupCatalog {
    pub(super) fn new(catalog: Arc<CatalogView>, tables: Arc<QueryTables>) -> Self {
        Self { catalog, tables }
    }

    fn databases(&self) -> BTreeSet<&str> {
        let entries = self.catalog.groups().filter_map(|group| group.offline.as_ref()?.data_catalog.as_ref());
        entries.map(|entry| entry.database.as_str()).collect()
    }
}

impl CatalogProvider for GroupCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.databases().into_iter().chain([SCHEMA]).map(str::to_owned).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let database = match name {
            SCHEMA => None,
            name => Some((*self.databases().iter().find(|database| database.eq_ignore_ascii_case(name))?).to_owned()),
        };
        Some(Arc::new(GroupSchema { catalog: Arc::clone(&self.catalog), tables: Arc::clone(&self.tables), database }))
    }
}

/// Tables of one schema.
#[derive(Debug)]
struct GroupSchema {
    catalog: Arc<CatalogView>,
    tables: Arc<QueryTables>,
    /// `None`: groups by their own names. Else by the names in this database.
    database: Option<String>,
}

impl GroupSchema {
    /// Names with the groups they stand for; groups without an offline store have none.
    fn entries(&self) -> impl Iterator<Item = (&str, &Arc<FeatureGroup>)> {
        self.catalog.groups().filter_map(move |group| {
            let offline = group.offline.as_ref()?;
            match (&self.database, &offline.data_catalog) {
                (None, _) => Some((group.name.as_str(), group)),
                (Some(database), Some(entry)) if entry.database == *database => Some((entry.table.as_str(), group)),
                _ => None,
            }
        })
    }

    /// The group of a name: by the very name, else the only one that differs in case alone.
    fn find(&self, name: &str) -> Result<Option<&Arc<FeatureGroup>>> {
        if let Some((_, group)) = self.entries().find(|(entry, _)| *entry == name) {
            return Ok(Some(group));
        }
        let mut folded = self.entries().filter(|(entry, _)| entry.eq_ignore_ascii_case(name));
        match (folded.next(), folded.next()) {
            (Some((first, _)), Some((second, _))) => Err(DataFusionError::Plan(format!(
                "table {name:?} may be {first:?} or {second:?}, write the one that is meant in double quotes"
            ))),
            (first, _) => Ok(first.map(|(_, group)| group)),
        }
    }

    /// A group that is there and has nothing to query deserves better than "not found".
    fn check_offline(&self, name: &str) -> Result<()> {
        let group = self.catalog.groups().find(|group| group.name.eq_ignore_ascii_case(name));
        match group {
            Some(group) if self.database.is_none() && group.offline.is_none() => {
                Err(DataFusionError::Plan(format!("feature group {:?} has no offline store to query", group.name)))
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl SchemaProvider for GroupSchema {
    fn table_names(&self) -> Vec<String> {
        self.entries().map(|(name, _)| name.to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(group) = self.find(name)? else {
            self.check_offline(name)?;
            return Ok(None);
        };
        let opened = self.tables.open(group).await;
        opened.map(Some).map_err(|error| DataFusionError::External(Box::new(granary_types::Error::from(error))))
    }

    /// Without opening anything: `SHOW TABLES` asks for every table.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.find(name)?.map(|_| TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        matches!(self.find(name), Ok(Some(_)))
    }
}
