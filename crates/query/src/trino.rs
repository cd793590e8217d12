//! Queries in Trino's SQL, as Athena's clients write them (contract 5.3).
//!
//! The engine, its memory, its threads and its bounds are those of `granary sql`; what differs is what a text means:
//!
//! * tables are those of AWS's data catalog, `<database>.<table>`: feature groups under the names that their data
//!   catalog gives them, and the tables that users made ([`UserTables`]);
//! * columns have lower-cased names, a feature group's are its features and SageMaker's three (contract 4.2), and names
//!   are found without regard to case, quoted or not;
//! * functions, literals and the order of nulls are Trino's (`rewrite`, `functions`).

mod functions;
mod instants;
mod json;
mod rewrite;
mod tables;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{SQLOptions, SessionContext};
use tokio::sync::mpsc;

use crate::Error;
use crate::sql::check_size;
use rewrite::Labels;
pub(crate) use tables::TrinoCatalog;
pub use tables::{UserFormat, UserTable, UserTables};

/// The one data catalog.
pub const CATALOG: &str = "awsdatacatalog";

/// A query to run.
#[derive(Debug)]
pub struct TrinoQuery {
    /// The text, at most 262,144 bytes.
    pub sql: String,
    /// The database of tables that are written without one.
    pub database: String,
    /// Tables that are no feature group's.
    pub tables: Arc<dyn UserTables>,
}

/// What a query answers: batches as they come. Dropping it ends the query.
#[derive(Debug)]
pub struct TrinoRows {
    pub(crate) batches: mpsc::Receiver<Result<RecordBatch, Error>>,
    pub(crate) schema: SchemaRef,
}

impl TrinoRows {
    /// The columns, under the names they were given. Names may repeat.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next batch; `None` at the end.
    ///
    /// # Errors
    /// What ended the query early.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        self.batches.recv().await.transpose()
    }
}

/// The settings and functions of Trino's SQL over those of `granary sql`.
pub(crate) fn template(plain: &SessionState) -> SessionState {
    let mut config = plain.config().clone().with_default_catalog_and_schema(CATALOG, "default");
    let options = config.options_mut();
    // Trino's default, whichever the direction.
    options.sql_parser.default_null_ordering = "nulls_last".to_owned();
    options.execution.time_zone = Some("UTC".to_owned());
    let context = SessionContext::new_with_state(
        SessionStateBuilder::new_from_existing(plain.clone()).with_config(config).build(),
    );
    for function in functions::all() {
        context.register_udf(function.as_ref().clone());
    }
    context.state()
}

/// Plans a query and begins to run it.
///
/// # Errors
/// What it says is wrong, or names what is not there.
pub(crate) async fn run(context: &SessionContext, sql: &str) -> Result<(SendableRecordBatchStream, SchemaRef), Error> {
    check_size(sql)?;
    let rewritten = rewrite::rewrite(sql)?;
    let plan = context.state().statement_to_plan(rewritten.statement).await?;
    let only_queries = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_queries.verify_plan(&plan)?;
    let rows = context.execute_logical_plan(plan).await?.execute_stream().await?;
    let schema = labelled(&rows.schema(), &rewritten.labels);
    Ok((rows, schema))
}

fn labelled(schema: &Schema, labels: &Labels) -> SchemaRef {
    let own: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let fields = schema.fields().iter().zip(labels.apply(&own));
    Arc::new(Schema::new(fields.map(|(field, name)| field.as_ref().clone().with_name(name)).collect::<Vec<_>>()))
}
