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

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;
    use futures::TryStreamExt;

    use super::*;

    fn context() -> SessionContext {
        let state = SessionStateBuilder::new().with_default_features().build();
        SessionContext::new_with_state(template(&state))
    }

    /// The integers of a query that has one row.
    async fn one_row(sql: &str) -> Result<Vec<Option<i64>>, Error> {
        let (rows, _) = run(&context(), sql).await?;
        let batches: Vec<RecordBatch> = rows.try_collect().await?;
        let batch = batches.iter().find(|batch| batch.num_rows() == 1).expect("one row");
        let value =
            |column: &arrow::array::ArrayRef| column.is_valid(0).then(|| column.as_primitive::<Int64Type>().value(0));
        Ok(batch.columns().iter().map(value).collect())
    }

    #[tokio::test]
    async fn the_value_of_the_greatest_is_among_the_rows_that_count() {
        let of = "FROM (VALUES (1, 2), (2, 3), (3, NULL), (4, 1)) AS t (x, y)";
        let sql = format!(
            "SELECT max_by(x, y), min_by(x, y), max_by(x, y) FILTER (WHERE y < 3), max_by(x, y) FILTER (WHERE x = 3) {of}"
        );
        assert_eq!(one_row(&sql).await.expect("a row"), [Some(2), Some(4), Some(1), None]);
    }

    /// On a test's thread, whose stack is a hundredth of a query thread's.
    #[tokio::test]
    async fn many_arguments_of_concat_fit_the_stack() {
        let sql = format!("SELECT length(concat('a'{}))", ", 'a'".repeat(2_000));
        assert!(run(&context(), &sql).await.is_ok());
    }

    #[tokio::test]
    async fn chains_of_any_operator_are_bounded() {
        for chain in ["=1", "<1", "::int", "[1]", " is null"] {
            let refused = one_row(&format!("SELECT 1{}", chain.repeat(6_000))).await.expect_err("too deep");
            assert!(refused.to_string().contains("at most 5000 operators"), "{chain}: {refused}");
        }
    }
}
