//! SQL over the offline tables: a DataFusion session for each query.
//!
//! Tables are feature groups by name; the names that a group's data catalog gives it
//! (`sagemaker_featurestore.<table>`) work too, since the AWS SDKs write them. A table is opened when a query names
//! it, at its newest version, and stays at that version for the rest of the query, however often it is named: also
//! between the spine and the histories of one join.
//!
//! Names that are not quoted are found without regard to case, as Athena does it; see [`names`].
//!
//! Only queries are allowed: no statement that would create, change, copy or set anything.

use std::num::NonZeroUsize;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::dataframe::DataFrame;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryReservation, TrackConsumersPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use granary_catalog::CatalogView;
use granary_offline_store::Warehouse;
use granary_platform::Platform;
use granary_types::FeatureGroup;

use crate::trino::{self, TrinoCatalog, UserTables};
use crate::{Error, Settings};

mod catalog;
mod names;
mod stop;
mod tables;

use catalog::GroupCatalog;
pub(crate) use stop::Stop;
use stop::StopEverywhere;
pub(crate) use tables::QueryTables;
use tables::Tables;

/// The catalog that tables without one are in.
const CATALOG: &str = "granary";
/// The schema that tables without one are in: feature groups by name.
const SCHEMA: &str = "feature_groups";
/// What SageMaker calls its catalog.
const AWS_CATALOG: &str = "AwsDataCatalog";
/// What the warehouse's object store is called in the plans of queries.
pub(crate) const WAREHOUSE_URL: &str = "warehouse://granary/";
/// How many consumers an error about spent memory names.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(5).expect("not zero");

/// What all queries share: open tables, memory, temporary files.
#[derive(Debug)]
pub(crate) struct Engine {
    tables: Arc<Tables>,
    runtime: Arc<RuntimeEnv>,
    /// Functions and settings, made once: a session is a copy of it with a catalog of its own.
    template: SessionState,
    /// The same for Trino's SQL.
    trino: SessionState,
    platform: Platform,
}

impl Engine {
    pub(crate) fn new(platform: Platform, warehouse: Arc<Warehouse>, settings: &Settings) -> Result<Self, Error> {
        let spill = match &settings.spill_dir {
            Some(directory) => DiskManagerMode::Directories(vec![directory.clone()]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let pool = TrackConsumersPool::new(FairSpillPool::new(settings.memory_bytes_max), CONSUMERS_NAMED);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            // The files of users' tables come and go.
            .with_object_list_cache_limit(0)
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_mode(spill).with_max_temp_directory_size(settings.spill_bytes_max),
            )
            .build_arc()?;
        let url = ObjectStoreUrl::parse(WAREHOUSE_URL)?;
        runtime.register_object_store(url.as_ref(), warehouse.object_store());
        let template = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config(settings))
            .with_runtime_env(Arc::clone(&runtime))
            .build();
        let trino = trino::template(&template);
        let tables = Arc::new(Tables::new(warehouse, settings.tables_open_max));
        Ok(Self { tables, runtime, template, trino, platform })
    }

    /// A session for one query, over the groups of `catalog`, which `stop` ends.
    pub(crate) fn session(&self, catalog: Arc<CatalogView>, stop: Stop) -> Session {
        let tables = Arc::new(QueryTables::new(Arc::clone(&self.tables), Arc::clone(&catalog), &self.template));
        let context = self.context(&self.template, stop);
        let groups = Arc::new(GroupCatalog::new(catalog, Arc::clone(&tables)));
        // Written without quotes, DataFusion looks for it in lower case.
        for name in [CATALOG.to_owned(), AWS_CATALOG.to_owned(), AWS_CATALOG.to_lowercase()] {
            context.register_catalog(name, Arc::clone(&groups) as _);
        }
        Session { context, tables }
    }

    /// A session for one query in Trino's SQL.
    pub(crate) fn trino_session(
        &self,
        catalog: Arc<CatalogView>,
        stop: Stop,
        database: &str,
        users: Arc<dyn UserTables>,
    ) -> SessionContext {
        let tables = Arc::new(QueryTables::new(Arc::clone(&self.tables), Arc::clone(&catalog), &self.trino));
        let views = SessionContext::new_with_state(self.trino.clone());
        let mut template = self.trino.clone();
        template.config_mut().options_mut().catalog.default_schema = database.to_lowercase();
        let context = self.context(&template, stop);
        context.register_catalog(trino::CATALOG, Arc::new(TrinoCatalog::new(catalog, tables, users, views)));
        context
    }

    /// A session without tables, which `stop` ends.
    fn context(&self, template: &SessionState, stop: Stop) -> SessionContext {
        let state = SessionStateBuilder::new_from_existing(template.clone())
            .with_catalog_list(Arc::new(datafusion::catalog::MemoryCatalogProviderList::new()))
            .with_physical_optimizer_rule(Arc::new(StopEverywhere { stop, platform: self.platform.clone() }))
            .build();
        SessionContext::new_with_state(state)
    }

    /// An account in the memory that all queries share.
    pub(crate) fn reserve_memory(&self, consumer: &str) -> MemoryReservation {
        MemoryConsumer::new(consumer).register(&self.runtime.memory_pool)
    }
}

fn config(settings: &Settings) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(settings.partitions.max(1))
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    // Views of strings are not yet read by all clients of Arrow IPC.
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.optimizer.expand_views_at_output = true;
    config
}

/// One query's view of the feature groups.
pub(crate) struct Session {
    context: SessionContext,
    tables: Arc<QueryTables>,
}

/// The longest statement, in bytes (contract 5.3).
const SQL_BYTES_MAX: usize = 262_144;
/// The most operators of a statement. A chain of them such as `a OR b OR c` is a tree as deep as it has terms, to plan
/// and to drop it recurses once for each, and an overflown stack ends the process.
const OPERATORS_MAX: usize = 5_000;
/// The words that chain two expressions, queries or tables, or one expression and a test of it.
const CHAINING_WORDS: [&str; 21] = [
    "and",
    "or",
    "xor",
    "not",
    "is",
    "isnull",
    "notnull",
    "in",
    "between",
    "like",
    "ilike",
    "rlike",
    "similar",
    "regexp",
    "overlaps",
    "collate",
    "zone",
    "union",
    "intersect",
    "except",
    "join",
];

/// Refuses a statement that is too long or may nest too deep.
pub(crate) fn check_size(sql: &str) -> Result<(), Error> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(granary_types::Error::invalid(format!(
            "a statement has at most {SQL_BYTES_MAX} bytes, got {}",
            sql.len()
        ))
        .into());
    }
    // What is not even tokens, the parser says better.
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap_or_default();
    let operators = tokens.iter().filter(|token| chains(token)).count();
    if operators > OPERATORS_MAX {
        return Err(granary_types::Error::invalid(format!(
            "a statement has at most {OPERATORS_MAX} operators, got {operators}: use IN (...) or a join"
        ))
        .into());
    }
    Ok(())
}

/// Whether a token may make a tree deeper without a parenthesis, of which the parser bounds the depth: every sign but
/// those of lists and names.
fn chains(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            word.quote_style.is_none()
                && CHAINING_WORDS.iter().any(|chaining| word.value.eq_ignore_ascii_case(chaining))
        }
        Token::Whitespace(_) | Token::Number(..) | Token::Char(_) => false,
        Token::Comma | Token::Period | Token::SemiColon | Token::LParen | Token::RParen | Token::RBracket => false,
        Token::RBrace | Token::EOF => false,
        // Texts are many kinds of token, and begin with a quote or a letter and a quote.
        other => !other.to_string().contains('\''),
    }
}

impl Session {
    /// Plans one query.
    pub(crate) async fn plan(&self, sql: &str) -> Result<DataFrame, Error> {
        check_size(sql)?;
        let state = self.context.state();
        let dialect = state.config().options().sql_parser.dialect;
        let mut statement = state.sql_to_statement(sql, &dialect)?;
        let columns = names::columns_of(&state, &statement).await?;
        names::quote(&mut statement, &columns);
        let plan = state.statement_to_plan(statement).await?;
        let only_queries = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        only_queries.verify_plan(&plan)?;
        Ok(self.context.execute_logical_plan(plan).await?)
    }

    /// A feature group's table, for queries made without SQL.
    pub(crate) async fn table(&self, group: &Arc<FeatureGroup>) -> Result<Arc<dyn TableProvider>, Error> {
        self.tables.open(group).await
    }

    /// A query over a table, for queries made without SQL.
    pub(crate) fn read(&self, table: Arc<dyn TableProvider>) -> Result<DataFrame, Error> {
        Ok(self.context.read_table(table)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_nest_too_deep_are_refused() {
        let chain = |terms: usize| format!("SELECT 1 WHERE 1=1{}", " or 1=1".repeat(terms));
        assert!(check_size(&chain(2_000)).is_ok());
        assert!(check_size(&chain(20_000)).is_err());
        for more in ["+1", "=1", "<1", "::int", "[1]", "||'a'", " is null", " union select 1", " not in (1)"] {
            assert!(check_size(&format!("SELECT 1{}", more.repeat(5_001))).is_err(), "{more}");
        }
    }

    #[test]
    fn what_stands_in_texts_and_names_is_no_operator() {
        let values = ["'2024-01-01T00:00:00+01:00 or not'", "\"a-b\"", "x.y", "(1)", "-- or +\n1"].join(", ");
        assert!(check_size(&format!("SELECT {}1", format!("{values}, ").repeat(3_000))).is_ok());
        assert!(check_size("SELECT 'no end").is_ok());
        assert!(check_size(&"x".repeat(SQL_BYTES_MAX + 1)).is_err());
    }
}
