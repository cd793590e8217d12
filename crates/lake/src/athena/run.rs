//! One execution from its turn to its end.
//!
//! A result appears whole or not at all: it is written beside its name, or as parts, and named once it is complete. Then its
//! end is told. An execution that was ended by others meanwhile takes its result away.

use std::fmt::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use futures::StreamExt;
use granary_query::trino::TrinoQuery;
use granary_query::{Permit, trino::TrinoRows};
use granary_types::ErrorKind;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::executions::{Begun, Column, EndState, Ended, Started};
use super::statement::{
    CreateTable, CreateTableAs, Kind, PARQUET_INPUT, PARQUET_OUTPUT, PARQUET_SERDE, Statement, TableName,
};
use super::types::to_hive;
use super::{Athena, parameters, values};
use crate::json::Fault;
use crate::place::Uri;

/// How much of a result is gathered before it is handed to the store, in bytes.
const WRITE_BYTES: usize = 1 << 20;

/// Why an execution failed.
#[derive(Debug)]
struct Failure {
    reason: String,
    users_fault: bool,
}

impl Failure {
    fn user(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), users_fault: true }
    }

    fn system(what: &str, error: &dyn std::error::Error) -> Self {
        tracing::warn!(%error, what, "query execution failed");
        Self { reason: format!("GENERIC_INTERNAL_ERROR: {what}: {error}"), users_fault: false }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let users_fault = fault.status.is_client_error();
        let prefix = match fault.code {
            "EntityNotFoundException" if fault.message.starts_with("Database") => "SCHEMA_NOT_FOUND: ",
            "EntityNotFoundException" => "TABLE_NOT_FOUND: ",
            _ => "",
        };
        Self { reason: format!("{prefix}{}", fault.message), users_fault }
    }
}

/// What DataFusion begins its messages with, which says nothing to whoever wrote the query.
const STAGES: [&str; 7] = [
    "Error during planning: ",
    "Execution error: ",
    "SQL error: ",
    "Schema error: ",
    "Arrow error: ",
    "This feature is not implemented: ",
    "Optimizer rule 'simplify_expressions' failed\ncaused by\n",
];

/// What a query failed with, in Trino's words where they are known: people and programs look for them.
fn failed_query(error: granary_query::Error) -> Failure {
    let error = granary_types::Error::from(error);
    let mut message = error.message.as_str();
    while let Some(rest) = STAGES.iter().find_map(|stage| message.strip_prefix(stage)) {
        message = rest;
    }
    let is_code = |text: &str| text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    if message.split_once(':').is_some_and(|(code, _)| is_code(code)) {
        return Failure::user(message);
    }
    // A function that failed inside a scan comes wrapped.
    if let Some(at) = ["INVALID_FUNCTION_ARGUMENT", "INVALID_CAST_ARGUMENT"].iter().find_map(|code| message.find(code))
    {
        return Failure::user(message[at..].trim_end_matches("\")"));
    }
    let folded = message.to_lowercase();
    let code = match error.kind {
        ErrorKind::Invalid if folded.contains("table '") && folded.contains("not found") => "TABLE_NOT_FOUND",
        ErrorKind::Invalid if folded.contains("no field named") => "COLUMN_NOT_FOUND",
        ErrorKind::Invalid if folded.contains("invalid function") => "FUNCTION_NOT_FOUND",
        ErrorKind::Invalid | ErrorKind::Corrupt if folded.contains("divide by zero") => "DIVISION_BY_ZERO",
        ErrorKind::Invalid if folded.contains("cannot cast") || folded.contains("cast error") => {
            "INVALID_CAST_ARGUMENT"
        }
        ErrorKind::Invalid => "SYNTAX_ERROR",
        ErrorKind::Overloaded => "EXCEEDED_MEMORY_LIMIT",
        ErrorKind::Unknown => "EXCEEDED_TIME_LIMIT",
        _ => "GENERIC_INTERNAL_ERROR",
    };
    let users_fault = matches!(error.kind, ErrorKind::Invalid | ErrorKind::NotFound) || code == "DIVISION_BY_ZERO";
    Failure { reason: format!("{code}: {message}"), users_fault }
}

/// What an execution has come to so far.
#[derive(Debug, Default)]
struct Progress {
    started_ms: Option<u64>,
    planned_ms: Option<u64>,
    columns: Vec<Column>,
    rows: u64,
    manifest: Option<String>,
    /// Objects that were written, to be taken away when the execution turns out to have ended before.
    written: Vec<Path>,
    /// Database and name of the table that was made, which goes with them.
    made: Option<(String, String)>,
}

/// A table that is made when its files are there.
#[derive(Debug)]
struct Named {
    database: String,
    name: String,
    input: Map<String, Value>,
}

/// Takes an execution out of those of this process, however its task ends: whoever asks for one that has no end then
/// finds that nobody has it any more, and ends it as failed.
struct Here<'a> {
    athena: &'a Athena,
    id: &'a str,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.athena.executions.done(self.id);
    }
}

/// One execution at work.
struct Run<'a> {
    athena: &'a Athena,
    id: &'a str,
    begun: &'a Begun,
    progress: Progress,
}

impl Statement {
    /// Athena's kind of a statement that was read.
    pub(super) fn kind(&self, sql: &str) -> Kind {
        match self {
            Self::Query => Kind::of(sql),
            Self::Unload { .. } => Kind::Dml,
            Self::ShowDatabases { .. }
            | Self::ShowTables { .. }
            | Self::ShowColumns { .. }
            | Self::ShowPartitions { .. }
            | Self::Describe { .. } => Kind::Utility,
            _ => Kind::Ddl,
        }
    }
}

impl Athena {
    /// Runs an execution that was begun here, on the threads of queries.
    pub(super) fn spawn(&self, id: String, begun: Begun, stop: CancellationToken) {
        let athena = self.clone();
        self.query.spawn("athena query", async move {
            let _here = Here { athena: &athena, id: &id };
            let mut run = Run { athena: &athena, id: &id, begun: &begun, progress: Progress::default() };
            let outcome = tokio::select! {
                () = stop.cancelled() => None,
                done = run.work() => Some(done),
            };
            // Not to be broken off, so that it is known whether there is a table.
            let outcome = match outcome {
                Some(Ok(Some(table))) => Some(run.name(table).await),
                Some(Ok(None)) => Some(Ok(())),
                Some(Err(failure)) => Some(Err(failure)),
                None => None,
            };
            if let Err(error) = run.end(outcome).await {
                // Whoever asks for it finds that this process does not have it any more, and ends it.
                tracing::warn!(%error, id, "the end of a query execution could not be kept");
            }
        });
    }
}

impl Run<'_> {
    /// All but the table that `CREATE TABLE AS` makes of what was written, which it returns.
    async fn work(&mut self) -> Result<Option<Named>, Failure> {
        let permit =
            self.athena.query.admitted().await.map_err(|error| Failure::system("wait for its turn", &error))?;
        let started_ms = self.athena.platform.now_millis();
        self.progress.started_ms = Some(started_ms);
        let started = self.athena.executions.start(self.id, &Started { started_ms }).await;
        started.map_err(|error| Failure::system("keep the start", &error))?;
        let sql = parameters::bind(&self.begun.query, &self.begun.parameters).map_err(Failure::user)?;
        match Statement::parse(&sql).map_err(Failure::user)? {
            Statement::CreateTableAs(table) => return self.create_table_as(permit, *table).await,
            Statement::Query => {
                let rows = self.query(permit, sql).await?;
                self.write_csv(rows).await
            }
            Statement::Unload { query, location, properties } => {
                self.unload(permit, query, &location, &properties).await
            }
            Statement::CreateTable(table) => self.create_table(*table).await,
            statement => self.catalog_statement(statement).await,
        }?;
        Ok(None)
    }

    /// Makes a table of files that are there.
    async fn name(&mut self, table: Named) -> Result<(), Failure> {
        let Named { database, name, input } = table;
        if !self.athena.glue.create_table(&database, input).await? {
            return Err(exists(&database, &name));
        }
        self.progress.made = Some((database, name));
        self.progress.columns = vec![count_column()];
        Ok(())
    }

    /// Keeps how it ended. `None` is stopped from outside.
    async fn end(&mut self, outcome: Option<Result<(), Failure>>) -> object_store::Result<()> {
        let now = self.athena.platform.now_millis();
        let mut ended = match outcome {
            Some(Ok(())) => Ended::new(EndState::Succeeded, None, now),
            Some(Err(failure)) => {
                let users_fault = failure.users_fault;
                Ended { users_fault, ..Ended::new(EndState::Failed, failure.reason, now) }
            }
            None => Ended::new(EndState::Cancelled, "Query cancelled by user".to_owned(), now),
        };
        let succeeded = ended.state == EndState::Succeeded;
        let progress = std::mem::take(&mut self.progress);
        (ended.started_ms, ended.planned_ms) = (progress.started_ms, progress.planned_ms);
        (ended.columns, ended.rows, ended.manifest) = (progress.columns, progress.rows, progress.manifest);
        let ours = self.athena.executions.end(self.id, &ended).await?;
        if !(ours && succeeded) {
            self.take_away(progress.made, progress.written).await;
        }
        Ok(())
    }

    /// Removes what an execution left that did not succeed: a table before its files.
    async fn take_away(&self, made: Option<(String, String)>, written: Vec<Path>) {
        if let Some((database, name)) = made
            && let Err(fault) = self.athena.glue.delete_table(&database, &name).await
        {
            tracing::warn!(error = fault.message, database, name, "table of a query that did not succeed stays");
        }
        for path in written {
            match self.athena.documents.store().delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, %path, "result of a query that did not succeed stays"),
            }
        }
    }

    async fn query(&mut self, permit: Permit, sql: String) -> Result<TrinoRows, Failure> {
        let (database, tables) = (self.begun.database.clone(), Arc::new(self.athena.glue.clone()));
        let rows = self.athena.query.trino(permit, TrinoQuery { sql, database, tables }).await.map_err(failed_query)?;
        self.progress.planned_ms = Some(self.athena.platform.now_millis());
        Ok(rows)
    }

    fn place(&self, location: &str) -> Result<Path, Failure> {
        let uri = Uri::parse(location).map_err(|error| Failure::user(error.to_string()))?;
        self.athena.places.object(&uri.bucket, &uri.key).map_err(|error| Failure::user(error.to_string()))
    }

    async fn write_csv(&mut self, mut rows: TrinoRows) -> Result<(), Failure> {
        let failed = |error: &dyn std::error::Error| Failure::system("write the result", error);
        let path = self.place(&self.begun.output)?;
        let schema = Arc::clone(rows.schema());
        self.progress.columns =
            schema.fields().iter().map(|field| values::column(field.name(), field.data_type())).collect();
        let mut writer = BufWriter::new(self.athena.documents.store().clone(), path.clone());
        let mut text = String::new();
        values::csv_header(schema.fields().iter().map(|field| field.name().as_str()), &mut text);
        while let Some(batch) = rows.next().await.map_err(failed_query)? {
            values::csv(&batch, &mut text).map_err(|error| Failure::user(format!("GENERIC_USER_ERROR: {error}")))?;
            self.progress.rows += batch.num_rows() as u64;
            if text.len() >= WRITE_BYTES {
                writer.write_all(text.as_bytes()).await.map_err(|error| failed(&error))?;
                text.clear();
            }
        }
        writer.write_all(text.as_bytes()).await.map_err(|error| failed(&error))?;
        // From here on it may be there.
        self.progress.written.push(path);
        writer.shutdown().await.map_err(|error| failed(&error))
    }

    /// Writes the rows of a query as one Parquet file in a directory; none when there are no rows.
    async fn write_parquet(&mut self, mut rows: TrinoRows, location: &str) -> Result<Option<String>, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::system("write Parquet", error);
        let schema = Arc::clone(rows.schema());
        check_names(&schema)?;
        let file = format!("{location}{}_00000", self.id);
        let path = self.place(&file)?;
        let mut writer = None;
        while let Some(batch) = rows.next().await.map_err(failed_query)? {
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec());
            let batch = batch.map_err(|error| failed(&error))?;
            if writer.is_none() {
                let object = BufWriter::new(self.athena.documents.store().clone(), path.clone());
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let opened = AsyncArrowWriter::try_new(object, Arc::clone(&schema), Some(properties));
                writer = Some(opened.map_err(|error| Failure::user(format!("NOT_SUPPORTED: {error}")))?);
            }
            if let Some(writer) = &mut writer {
                writer.write(&batch).await.map_err(|error| failed(&error))?;
            }
            self.progress.rows += batch.num_rows() as u64;
        }
        let Some(writer) = writer else { return Ok(None) };
        self.progress.written.push(path);
        writer.close().await.map_err(|error| failed(&error))?;
        Ok(Some(file))
    }

    /// The list of the files that a statement wrote, beside where its result would be.
    async fn write_manifest(&mut self, output_directory: &str, file: Option<String>) -> Result<(), Failure> {
        let manifest = format!("{output_directory}{}-manifest.csv", self.id);
        let lines = file.map_or_else(String::new, |file| format!("{file}\n"));
        self.write_object(&manifest, lines).await?;
        self.progress.manifest = Some(manifest);
        Ok(())
    }

    async fn write_object(&mut self, location: &str, text: String) -> Result<(), Failure> {
        let path = self.place(location)?;
        self.progress.written.push(path.clone());
        let put = self.athena.documents.store().put(&path, PutPayload::from(text)).await;
        put.map(drop).map_err(|error| Failure::system("write the result", &error))
    }

    /// Where results go, without the file.
    fn output_directory(&self) -> String {
        self.begun.output.rsplit_once('/').map_or_else(String::new, |(directory, _)| format!("{directory}/"))
    }

    /// Refuses a place that is not for users' files, or that their S3 does not lead to.
    fn check_location(&self, location: &str) -> Result<(), Failure> {
        let places = &self.athena.places;
        let checked = Uri::parse(location).and_then(|uri| {
            places.check_reachable(&uri.bucket, self.athena.settings.s3_enabled)?;
            places.table_directory(location)
        });
        checked.map(drop).map_err(|error| Failure::user(format!("INVALID_TABLE_PROPERTY: {error}")))
    }

    async fn check_empty(&self, location: &str) -> Result<(), Failure> {
        self.check_location(location)?;
        let uri = Uri::parse(location).map_err(|error| Failure::user(error.to_string()))?;
        let directory =
            self.athena.places.directory(&uri.bucket, &uri.key).map_err(|error| Failure::user(error.to_string()))?;
        match self.athena.documents.store().list(Some(&directory)).next().await {
            None => Ok(()),
            Some(Ok(_)) => Err(Failure::user(format!(
                "HIVE_PATH_ALREADY_EXISTS: Target directory for table already exists: {location}"
            ))),
            Some(Err(error)) => Err(Failure::system("look at the target directory", &error)),
        }
    }

    async fn unload(
        &mut self,
        permit: Permit,
        query: String,
        location: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        check_parquet(properties)?;
        let location = directory(location);
        self.check_empty(&location).await?;
        let rows = self.query(permit, query).await?;
        let file = self.write_parquet(rows, &location).await?;
        self.write_manifest(&self.output_directory(), file).await?;
        self.progress.columns = vec![count_column()];
        Ok(())
    }

    async fn create_table_as(&mut self, permit: Permit, table: CreateTableAs) -> Result<Option<Named>, Failure> {
        check_parquet(&table.properties)?;
        let (database, name) = self.resolved(&table.name);
        self.athena.glue.check_database(&database).await?;
        if self.athena.glue.table(&database, &name).await?.is_some() {
            return if table.if_not_exists { Ok(None) } else { Err(exists(&database, &name)) };
        }
        let output = self.output_directory();
        let location = table
            .properties
            .get("external_location")
            .map_or_else(|| format!("{output}tables/{}/", self.id), |at| directory(at));
        self.check_empty(&location).await?;
        let rows = self.query(permit, table.query).await?;
        let schema = Arc::clone(rows.schema());
        check_names(&schema)?;
        let file = if table.with_data { self.write_parquet(rows, &location).await? } else { None };
        self.write_manifest(&output, file).await?;
        let columns = schema.fields().iter().map(|field| (field.name().to_lowercase(), to_hive(field.data_type())));
        let input = table_input(&Made {
            name: name.clone(),
            columns: columns.collect(),
            location,
            formats: [PARQUET_INPUT.to_owned(), PARQUET_OUTPUT.to_owned()],
            serde: PARQUET_SERDE.to_owned(),
            serde_properties: BTreeMap::from([("serialization.format".to_owned(), "1".to_owned())]),
            properties: BTreeMap::from([("classification".to_owned(), "parquet".to_owned())]),
        });
        Ok(Some(Named { database, name, input }))
    }

    async fn create_table(&mut self, table: CreateTable) -> Result<(), Failure> {
        let (database, name) = self.resolved(&table.name);
        self.check_location(&table.location)?;
        let input = table_input(&Made {
            name: name.clone(),
            columns: table.columns,
            location: table.location,
            formats: [table.input_format, table.output_format],
            serde: table.serde,
            serde_properties: table.serde_properties,
            properties: table.properties,
        });
        let created = self.athena.glue.create_table(&database, input).await?;
        if !created && !table.if_not_exists {
            return Err(exists(&database, &name));
        }
        self.write_lines(&[]).await
    }

    async fn catalog_statement(&mut self, statement: Statement) -> Result<(), Failure> {
        let glue = &self.athena.glue;
        match statement {
            Statement::DropTable { name, if_exists } => {
                let (database, name) = self.resolved(&name);
                if !glue.delete_table(&database, &name).await? && !if_exists {
                    return Err(Failure::user(format!("TABLE_NOT_FOUND: Table not found {name}")));
                }
                self.write_lines(&[]).await
            }
            Statement::CreateDatabase { name, if_not_exists } => {
                let input = Map::from_iter([("Name".to_owned(), Value::from(name.clone()))]);
                if !glue.create_database(input).await? && !if_not_exists {
                    return Err(Failure::user(format!("SCHEMA_ALREADY_EXISTS: Database {name} already exists")));
                }
                self.write_lines(&[]).await
            }
            Statement::DropDatabase { name, if_exists, cascade } => {
                if !cascade && !glue.table_names(&name).await?.is_empty() {
                    return Err(Failure::user(format!(
                        "SCHEMA_NOT_EMPTY: Database {name} is not empty. One or more tables exist."
                    )));
                }
                if !glue.delete_database(&name).await? && !if_exists {
                    return Err(Failure::user(format!("SCHEMA_NOT_FOUND: Database {name} cannot be dropped")));
                }
                self.write_lines(&[]).await
            }
            Statement::ShowDatabases { like } => {
                let names = matching(glue.databases().await?, like.as_deref());
                self.progress.columns = vec![text_column("database_name")];
                self.write_lines(&names).await
            }
            Statement::ShowTables { database, like } => {
                let database = database.unwrap_or_else(|| self.begun.database.clone());
                glue.check_database(&database).await?;
                let names = matching(glue.table_names(&database).await?, like.as_deref());
                self.progress.columns = vec![text_column("tab_name")];
                self.write_lines(&names).await
            }
            Statement::ShowColumns { name } => {
                let names: Vec<String> = self.columns_of(&name).await?.into_iter().map(|(name, _)| name).collect();
                self.progress.columns = vec![text_column("field")];
                self.write_lines(&names).await
            }
            Statement::Describe { name } => {
                let columns = self.columns_of(&name).await?;
                let lines: Vec<String> = columns.into_iter().map(|(name, kind)| format!("{name}\t{kind}\t")).collect();
                self.progress.columns = ["col_name", "data_type", "comment"].map(text_column).into();
                self.write_lines(&lines).await
            }
            // There are no partitions to list or to find.
            Statement::ShowPartitions { name } | Statement::Repair { name } => {
                self.columns_of(&name).await?;
                self.write_lines(&[]).await
            }
            other => {
                Err(Failure { reason: format!("GENERIC_INTERNAL_ERROR: no way to run {other:?}"), users_fault: false })
            }
        }
    }

    async fn write_lines(&mut self, lines: &[String]) -> Result<(), Failure> {
        let text = lines.iter().fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        });
        let output = self.begun.output.clone();
        self.write_object(&output, text).await
    }

    fn resolved(&self, name: &TableName) -> (String, String) {
        (name.database.clone().unwrap_or_else(|| self.begun.database.clone()), name.table.clone())
    }

    /// Names and Hive types.
    async fn columns_of(&self, name: &TableName) -> Result<Vec<(String, String)>, Failure> {
        let (database, name) = self.resolved(name);
        let table = self.athena.glue.table(&database, &name).await?;
        let table =
            table.ok_or_else(|| Failure::user(format!("TABLE_NOT_FOUND: Table {database}.{name} does not exist")))?;
        let columns = table.input.get("StorageDescriptor").and_then(|storage| storage.get("Columns"));
        let text = |column: &Value, member| column.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let columns = columns.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(columns.iter().map(|column| (text(column, "Name"), text(column, "Type"))).collect())
    }
}

fn exists(database: &str, name: &str) -> Failure {
    Failure::user(format!("TABLE_ALREADY_EXISTS: Table '{database}.{name}' already exists"))
}

fn directory(location: &str) -> String {
    if location.ends_with('/') { location.to_owned() } else { format!("{location}/") }
}

/// The names of a table's columns must be told apart.
fn check_names(schema: &Schema) -> Result<(), Failure> {
    let mut names: Vec<String> = schema.fields().iter().map(|field| field.name().to_lowercase()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(Failure::user(format!("DUPLICATE_COLUMN_NAME: Column name '{}' specified more than once", pair[0])))
        }
        None => Ok(()),
    }
}

fn check_parquet(properties: &BTreeMap<String, String>) -> Result<(), Failure> {
    let format = properties.get("format").map_or("PARQUET", String::as_str);
    if !format.eq_ignore_ascii_case("parquet") {
        return Err(Failure::user(format!("NOT_SUPPORTED: format {format} is not written; PARQUET is")));
    }
    match ["partitioned_by", "bucketed_by"].iter().find(|name| properties.contains_key(**name)) {
        Some(name) => Err(Failure::user(format!("NOT_SUPPORTED: {name} is not served"))),
        None => Ok(()),
    }
}

fn count_column() -> Column {
    Column { name: "rows".to_owned(), kind: "bigint".to_owned(), precision: 19, scale: 0 }
}

fn text_column(name: &str) -> Column {
    Column { name: name.to_owned(), kind: "string".to_owned(), precision: 0, scale: 0 }
}

/// The names that a pattern of `SHOW` means: `*` is anything, `|` an alternative.
fn matching(names: Vec<String>, pattern: Option<&str>) -> Vec<String> {
    let Some(pattern) = pattern else { return names };
    let mut expression = String::from("^(?:");
    for c in pattern.to_lowercase().chars() {
        match c {
            '*' | '%' => expression.push_str(".*"),
            '|' => expression.push('|'),
            c => expression.push_str(&regex::escape(&c.to_string())),
        }
    }
    let _ = write!(expression, ")$");
    match regex::Regex::new(&expression) {
        Ok(expression) => names.into_iter().filter(|name| expression.is_match(name)).collect(),
        Err(_) => Vec::new(),
    }
}

/// A table that a statement makes.
struct Made {
    name: String,
    columns: Vec<(String, String)>,
    location: String,
    /// Of input and output.
    formats: [String; 2],
    serde: String,
    serde_properties: BTreeMap<String, String>,
    properties: BTreeMap<String, String>,
}

/// It as Glue's `TableInput`.
fn table_input(made: &Made) -> Map<String, Value> {
    let columns: Vec<Value> = made.columns.iter().map(|(name, kind)| json!({ "Name": name, "Type": kind })).collect();
    let mut parameters = made.properties.clone();
    parameters.insert("EXTERNAL".to_owned(), "TRUE".to_owned());
    let input = json!({
        "Name": made.name,
        "StorageDescriptor": {
            "Columns": columns,
            "Location": made.location,
            "InputFormat": made.formats[0],
            "OutputFormat": made.formats[1],
            "SerdeInfo": { "SerializationLibrary": made.serde, "Parameters": made.serde_properties },
        },
        "PartitionKeys": [],
        "TableType": "EXTERNAL_TABLE",
        "Parameters": parameters,
    });
    match input {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The services over the bucket `lake`, and an execution that was begun.
    async fn begun(query: &str) -> (Arc<crate::Lake>, String, Begun) {
        let lake = crate::tests::lake("s3://lake").await;
        let (id, begun) = begun_in(&lake, query).await;
        (lake, id, begun)
    }

    async fn begun_in(lake: &crate::Lake, query: &str) -> (String, Begun) {
        let executions = &lake.athena.executions;
        let id = executions.fresh_id();
        let begun = Begun {
            query: query.to_owned(),
            kind: "DDL".to_owned(),
            database: "default".to_owned(),
            catalog: None,
            database_given: false,
            work_group: "primary".to_owned(),
            parameters: Vec::new(),
            output: format!("s3://results/{id}"),
            submitted_ms: 1,
            process: executions.process().to_owned(),
        };
        executions.begin(&id, &begun).await.expect("kept").expect("new");
        (id, begun)
    }

    /// Objects that are not Granary's own.
    async fn objects(lake: &crate::Lake) -> Vec<String> {
        let all = lake.athena.documents.store().list(None).map(|meta| meta.expect("listed").location.to_string());
        all.filter(|path| std::future::ready(!path.starts_with("_granary"))).collect().await
    }

    #[tokio::test]
    async fn a_stopped_table_of_a_query_leaves_neither_table_nor_files() {
        for stopped in [false, true] {
            let (lake, id, begun) = begun("CREATE TABLE t AS SELECT 1 AS a").await;
            let athena = &lake.athena;
            let mut run = Run { athena, id: &id, begun: &begun, progress: Progress::default() };
            let table = run.work().await.expect("written").expect("a table");
            if stopped {
                let end = Ended::new(EndState::Cancelled, None, 2);
                assert!(athena.executions.end(&id, &end).await.expect("kept"));
            }
            let named = run.name(table).await;
            run.end(Some(named)).await.expect("kept");
            assert_eq!(athena.glue.table("default", "t").await.expect("read").is_some(), !stopped);
            assert_eq!(objects(&lake).await.is_empty(), stopped);
        }
    }

    #[tokio::test]
    async fn an_execution_whose_task_broke_off_has_failed() {
        let (lake, id, _) = begun("SELECT 1").await;
        let executions = &lake.athena.executions;
        assert_eq!(executions.get(&id).await.expect("read").expect("there").state(), "QUEUED");
        drop(Here { athena: &lake.athena, id: &id });
        assert_eq!(executions.get(&id).await.expect("read").expect("there").state(), "FAILED");
        assert_eq!(executions.count_here(), 0);
    }

    #[tokio::test]
    async fn no_statement_makes_a_table_of_granarys_own_objects() {
        for (query, refused) in [
            ("CREATE EXTERNAL TABLE t (a INT) LOCATION 's3://lake/_granary/athena/'", true),
            ("CREATE TABLE t WITH (external_location = 's3://lake/_granary/x/') AS SELECT 1 AS a WITH NO DATA", true),
            ("UNLOAD (SELECT 1 AS a) TO 's3://lake/_granary/x/' WITH (format = 'PARQUET')", true),
            ("CREATE EXTERNAL TABLE t (a INT) LOCATION 's3://tables/t/'", false),
        ] {
            let (lake, id, begun) = begun(query).await;
            let mut run = Run { athena: &lake.athena, id: &id, begun: &begun, progress: Progress::default() };
            let done = run.work().await;
            assert_eq!(done.is_err(), refused, "{query}: {done:?}");
            assert!(done.err().is_none_or(|failure| failure.users_fault), "{query}");
        }
    }

    #[tokio::test]
    async fn separated_texts_are_read_as_hive_does() {
        let create = r"CREATE EXTERNAL TABLE t (n INT, a STRING) ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' ESCAPED BY '\\'
            LOCATION 's3://tables/t/'";
        let (lake, id, begun) = begun(create).await;
        let mut run = Run { athena: &lake.athena, id: &id, begun: &begun, progress: Progress::default() };
        assert!(run.work().await.expect("made").is_none());
        let store = lake.athena.documents.store();
        store.put(&Path::from("tables/t/part"), "1,x\\\\y\n\\N,\\N\n3,\n".into()).await.expect("put");
        let (id, begun) = begun_in(&lake, "SELECT n, a FROM t ORDER BY n").await;
        let mut run = Run { athena: &lake.athena, id: &id, begun: &begun, progress: Progress::default() };
        run.work().await.expect("read");
        let result =
            store.get(&Path::from(format!("results/{id}"))).await.expect("there").bytes().await.expect("bytes");
        assert_eq!(result, "\"n\",\"a\"\n\"1\",\"x\\y\"\n\"3\",\"\"\n,\n");
    }

    #[test]
    fn patterns_of_show_are_no_regular_expressions() {
        let names = ["a_1", "a.1", "b"].map(str::to_owned).to_vec();
        assert_eq!(matching(names.clone(), Some("a*")), ["a_1", "a.1"]);
        assert_eq!(matching(names.clone(), Some("a.1|b")), ["a.1", "b"]);
        assert_eq!(matching(names.clone(), Some("(")), Vec::<String>::new());
        assert_eq!(matching(names, None).len(), 3);
    }

    #[test]
    fn reasons_are_in_trinos_words() {
        let of = |message: &str| failed_query(granary_types::Error::invalid(message).into()).reason;
        assert_eq!(of("Error during planning: table 'a.b.c' not found"), "TABLE_NOT_FOUND: table 'a.b.c' not found");
        assert_eq!(of("Execution error: INVALID_FUNCTION_ARGUMENT: x"), "INVALID_FUNCTION_ARGUMENT: x");
        assert_eq!(of("anything"), "SYNTAX_ERROR: anything");
        let spent = granary_types::Error::new(ErrorKind::Overloaded, "no memory");
        assert!(!failed_query(spent.into()).users_fault);
    }
}
