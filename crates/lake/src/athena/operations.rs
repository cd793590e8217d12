//! Athena's operations.

use std::collections::BTreeMap;

use granary_api::aws::Call;
use md5::{Digest, Md5};
use serde::Deserialize;
use serde_json::{Value, json};

use super::executions::{Begun, EndState, Ended, Execution, TokenUse, is_id};
use super::statement::{Kind, Statement};
use super::{Athena, results};
use crate::glue::DEFAULT;
use crate::json::{Fault, Reply, operation, page, seconds, shape};
use crate::place::Uri;

/// The longest statement, in characters (contract 5.3).
const QUERY_CHARS_MAX: usize = 262_144;
/// Lengths of a request token.
const TOKEN_CHARS: std::ops::RangeInclusive<usize> = 32..=128;
/// The most parameters, and the longest, as on AWS.
const PARAMETERS_MAX: usize = 1_000;
/// The most executions that one call asks for or lists, as on AWS.
const EXECUTIONS_MAX: usize = 50;
/// The most executions that one call looks at to find those of a work group.
const LOOKED_AT_MAX: usize = 1_000;
/// The work group of calls that name none.
const PRIMARY: &str = "primary";
/// The only data catalog.
const CATALOG: &str = "AwsDataCatalog";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Context {
    database: Option<String>,
    catalog: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ResultConfiguration {
    output_location: Option<String>,
}

/// Every member that the operations here take; what a call needs is checked where it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    query_string: Option<String>,
    client_request_token: Option<String>,
    query_execution_context: Context,
    result_configuration: ResultConfiguration,
    execution_parameters: Vec<String>,
    work_group: Option<String>,
    query_execution_id: Option<String>,
    query_execution_ids: Vec<String>,
    catalog_name: Option<String>,
    database_name: Option<String>,
    table_name: Option<String>,
    name: Option<String>,
    next_token: Option<String>,
    max_results: Option<usize>,
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new("InvalidRequestException", message).with("AthenaErrorCode", "INVALID_INPUT")
}

pub(super) fn store_failed(error: &object_store::Error) -> Fault {
    Fault::internal("InternalServerException", error)
}

impl Asked {
    fn id(&self) -> Result<&str, Fault> {
        let id = self.query_execution_id.as_deref().ok_or_else(|| invalid("QueryExecutionId is missing"))?;
        if is_id(id) { Ok(id) } else { Err(not_found(id)) }
    }

    fn work_group(&self) -> Result<String, Fault> {
        let name = self.work_group.as_deref().unwrap_or(PRIMARY);
        let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits && (1..=128).contains(&name.len()) {
            return Ok(name.to_owned());
        }
        Err(invalid(format!("WorkGroup {name:?} must be 1 to 128 letters, digits, dots, hyphens and underscores")))
    }

    /// How much of a list is asked for.
    fn page_size(&self) -> usize {
        self.max_results.unwrap_or(EXECUTIONS_MAX).clamp(1, EXECUTIONS_MAX)
    }

    /// Refuses any catalog but the one.
    fn check_catalog(&self) -> Result<(), Fault> {
        match self.catalog_name.as_deref().or(self.query_execution_context.catalog.as_deref()) {
            Some(name) if !name.eq_ignore_ascii_case(CATALOG) => {
                Err(invalid(format!("Data catalog {name} is not found; there is {CATALOG}")))
            }
            _ => Ok(()),
        }
    }
}

fn not_found(id: &str) -> Fault {
    invalid(format!("QueryExecution {id} was not found"))
}

impl Athena {
    pub(super) async fn answer_call(&self, call: &Call) -> Reply {
        let name = operation(call);
        let asked: Asked = shape(call)?;
        match name {
            "StartQueryExecution" => self.start_query_execution(asked).await,
            "GetQueryExecution" => {
                let execution = self.execution(asked.id()?).await?;
                Ok(json!({ "QueryExecution": described(&execution) }))
            }
            "BatchGetQueryExecution" => self.batch_get_query_execution(&asked).await,
            "ListQueryExecutions" => self.list_query_executions(&asked).await,
            "StopQueryExecution" => self.stop_query_execution(&asked).await,
            "GetQueryResults" => {
                let execution = self.execution(asked.id()?).await?;
                results::page(self, &execution, asked.next_token.as_deref(), asked.max_results).await
            }
            "GetWorkGroup" => self.get_work_group(&asked),
            "ListWorkGroups" => {
                Ok(json!({ "WorkGroups": [{ "Name": PRIMARY, "State": "ENABLED", "EngineVersion": engine() }] }))
            }
            "GetDataCatalog" => {
                let name = asked.name.as_deref().unwrap_or(CATALOG);
                if !name.eq_ignore_ascii_case(CATALOG) {
                    return Err(invalid(format!("Data catalog {name} is not found; there is {CATALOG}")));
                }
                Ok(json!({ "DataCatalog": { "Name": CATALOG, "Type": "GLUE", "Parameters": {} } }))
            }
            "ListDataCatalogs" => Ok(json!({ "DataCatalogsSummary": [{ "CatalogName": CATALOG, "Type": "GLUE" }] })),
            "GetDatabase" => self.get_database(&asked).await,
            "ListDatabases" => self.list_databases(&asked).await,
            "GetTableMetadata" => self.get_table_metadata(&asked).await,
            "ListTableMetadata" => self.list_table_metadata(&asked).await,
            _ => Err(Fault::unknown_operation(call.target().unwrap_or_default())),
        }
    }

    async fn execution(&self, id: &str) -> Result<Execution, Fault> {
        self.executions.get(id).await.map_err(|error| store_failed(&error))?.ok_or_else(|| not_found(id))
    }

    async fn start_query_execution(&self, asked: Asked) -> Reply {
        let begun = self.begun(&asked)?;
        let mut id = self.executions.fresh_id();
        if let Some(token) = &asked.client_request_token {
            if !TOKEN_CHARS.contains(&token.chars().count()) {
                return Err(invalid("ClientRequestToken must have 32 to 128 characters"));
            }
            let own = TokenUse { id: id.clone(), request: request_hash(&begun) };
            let used = self.executions.token(&hash(&[token]), &own).await.map_err(|error| store_failed(&error))?;
            if used.request != own.request {
                return Err(invalid("Idempotent parameters do not match"));
            }
            id = used.id;
        }
        let at_work = self.executions.count_here();
        if at_work >= self.settings.queries_waiting_max + self.query.queries_max() {
            let message = format!("{at_work} queries are at work or wait already");
            return Err(
                Fault::new("TooManyRequestsException", message).with("Reason", "CONCURRENT_QUERY_LIMIT_EXCEEDED")
            );
        }
        let output = format!("{}{id}{}", begun.output, extension(&begun.query));
        let begun = Begun { output, ..begun };
        // A repeated request finds its execution there; one that died between token and execution begins here.
        if let Some(stop) = self.executions.begin(&id, &begun).await.map_err(|error| store_failed(&error))? {
            self.spawn(id.clone(), begun, stop);
        }
        Ok(json!({ "QueryExecutionId": id }))
    }

    /// What is to be kept of a request, its output without the file's name.
    fn begun(&self, asked: &Asked) -> Result<Begun, Fault> {
        let query = asked.query_string.clone().ok_or_else(|| invalid("QueryString is missing"))?;
        if query.is_empty() || query.chars().count() > QUERY_CHARS_MAX {
            return Err(invalid(format!("QueryString must have 1 to {QUERY_CHARS_MAX} characters")));
        }
        if asked.execution_parameters.len() > PARAMETERS_MAX {
            return Err(invalid(format!("ExecutionParameters has at most {PARAMETERS_MAX} values")));
        }
        asked.check_catalog()?;
        let location = asked.result_configuration.output_location.as_ref().or(self.settings.output_location.as_ref());
        let location = location.ok_or_else(|| {
            invalid("No output location provided. An output location is required either through the Workgroup result configuration setting or as an API input.")
        })?;
        let database = asked.query_execution_context.database.as_deref();
        Ok(Begun {
            kind: Statement::parse(&query)
                .map_or_else(|_| Kind::of(&query), |statement| statement.kind(&query))
                .name()
                .to_owned(),
            output: self.checked_output(location)?,
            database: database.map_or_else(|| DEFAULT.to_owned(), |name| name.trim_matches('`').to_lowercase()),
            database_given: database.is_some(),
            catalog: asked.query_execution_context.catalog.clone(),
            work_group: asked.work_group()?,
            parameters: asked.execution_parameters.clone(),
            submitted_ms: self.platform.now_millis(),
            process: self.executions.process().to_owned(),
            query,
        })
    }

    /// A place for results that can be written and that the caller's S3 can read.
    fn checked_output(&self, location: &str) -> Result<String, Fault> {
        let wrong = |why: &str| invalid(format!("outputLocation {location:?} is not a valid S3 path: {why}"));
        let uri = Uri::parse(location).map_err(|error| wrong(&error.to_string()))?;
        let directory = if uri.key.is_empty() || uri.key.ends_with('/') { uri.key } else { format!("{}/", uri.key) };
        let probe = self.places.object(&uri.bucket, &format!("{directory}{}.csv", "0".repeat(36)));
        probe.map_err(|error| wrong(&error.to_string()))?;
        let reachable = self.places.check_reachable(&uri.bucket, self.settings.s3_enabled);
        reachable.map_err(|error| wrong(&error.to_string()))?;
        Ok(format!("s3://{}/{directory}", uri.bucket))
    }

    async fn batch_get_query_execution(&self, asked: &Asked) -> Reply {
        let ids = &asked.query_execution_ids;
        if ids.is_empty() || ids.len() > EXECUTIONS_MAX {
            return Err(invalid(format!("QueryExecutionIds must have 1 to {EXECUTIONS_MAX} ids")));
        }
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for id in ids {
            let execution = if is_id(id) { self.executions.get(id).await.map_err(|e| store_failed(&e))? } else { None };
            match execution {
                Some(execution) => found.push(described(&execution)),
                None => missing.push(json!({
                    "QueryExecutionId": id,
                    "ErrorCode": "INVALID_QUERY_EXECUTION_ID",
                    "ErrorMessage": format!("QueryExecution {id} was not found"),
                })),
            }
        }
        Ok(json!({ "QueryExecutions": found, "UnprocessedQueryExecutionIds": missing }))
    }

    async fn list_query_executions(&self, asked: &Asked) -> Reply {
        let work_group = asked.work_group()?;
        let ids = self.executions.ids().await.map_err(|error| store_failed(&error))?;
        let after = asked.next_token.as_deref();
        let rest: Vec<String> = ids.into_iter().filter(|id| after.is_none_or(|after| id.as_str() < after)).collect();
        let mut listed = Vec::new();
        let mut next = None;
        for (count, id) in rest.iter().enumerate() {
            if listed.len() == asked.page_size() || count == LOOKED_AT_MAX {
                // The last one that was looked at.
                next = rest.get(count.wrapping_sub(1)).cloned();
                break;
            }
            let of = self.executions.work_group(id).await.map_err(|error| store_failed(&error))?;
            if of.is_some_and(|of| of == work_group) {
                listed.push(id.clone());
            }
        }
        Ok(json!({ "QueryExecutionIds": listed, "NextToken": next }))
    }

    async fn stop_query_execution(&self, asked: &Asked) -> Reply {
        let execution = self.execution(asked.id()?).await?;
        if execution.ended.is_none() {
            let reason = "Query cancelled by user".to_owned();
            let mut end = Ended::new(EndState::Cancelled, reason, self.platform.now_millis());
            end.started_ms = execution.started.as_ref().map(|started| started.started_ms);
            self.executions.end(&execution.id, &end).await.map_err(|error| store_failed(&error))?;
            self.executions.stop_here(&execution.id);
        }
        Ok(json!({}))
    }

    /// Work groups are names; all of them are alike.
    fn get_work_group(&self, asked: &Asked) -> Reply {
        Ok(json!({ "WorkGroup": {
            "Name": asked.work_group()?,
            "State": "ENABLED",
            "CreationTime": 0,
            "Configuration": {
                "ResultConfiguration": { "OutputLocation": self.settings.output_location },
                "EnforceWorkGroupConfiguration": false,
                "PublishCloudWatchMetricsEnabled": false,
                "RequesterPaysEnabled": false,
                "EngineVersion": engine(),
            },
        } }))
    }

    async fn get_database(&self, asked: &Asked) -> Reply {
        asked.check_catalog()?;
        let name = asked.database_name.as_deref().unwrap_or_default().to_lowercase();
        if self.glue.has_database(&name).await? {
            return Ok(json!({ "Database": { "Name": name } }));
        }
        Err(Fault::new("MetadataException", format!("Database {name} not found")))
    }

    async fn list_databases(&self, asked: &Asked) -> Reply {
        asked.check_catalog()?;
        let names = self.glue.databases().await?;
        let (names, next) = page(&names, String::as_str, asked.next_token.as_deref(), asked.page_size());
        let list: Vec<Value> = names.iter().map(|name| json!({ "Name": name })).collect();
        Ok(json!({ "DatabaseList": list, "NextToken": next }))
    }

    async fn get_table_metadata(&self, asked: &Asked) -> Reply {
        asked.check_catalog()?;
        let database = asked.database_name.as_deref().unwrap_or_default().to_lowercase();
        let name = asked.table_name.as_deref().unwrap_or_default().to_lowercase();
        match self.glue.table(&database, &name).await? {
            Some(table) => Ok(json!({ "TableMetadata": table_metadata(&table) })),
            None => Err(Fault::new("MetadataException", format!("Table {database}.{name} not found"))),
        }
    }

    async fn list_table_metadata(&self, asked: &Asked) -> Reply {
        asked.check_catalog()?;
        let database = asked.database_name.as_deref().unwrap_or_default().to_lowercase();
        self.glue.check_database(&database).await?;
        let names = self.glue.table_names(&database).await?;
        let (names, next) = page(&names, String::as_str, asked.next_token.as_deref(), asked.page_size());
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            list.extend(self.glue.table(&database, name).await?.map(|table| table_metadata(&table)));
        }
        Ok(json!({ "TableMetadataList": list, "NextToken": next }))
    }
}

fn table_metadata(table: &crate::glue::Table) -> Value {
    json!({
        "Name": table.input.get("Name"),
        "CreateTime": seconds(table.created_ms),
        "TableType": table.input.get("TableType"),
        "Columns": table.input.get("StorageDescriptor").and_then(|storage| storage.get("Columns")),
        "PartitionKeys": table.input.get("PartitionKeys"),
        "Parameters": table.input.get("Parameters"),
    })
}

fn engine() -> Value {
    json!({ "SelectedEngineVersion": "AUTO", "EffectiveEngineVersion": "Athena engine version 3" })
}

fn hash(parts: &[&str]) -> String {
    let mut sum = Md5::new();
    for part in parts {
        sum.update(part.len().to_be_bytes());
        sum.update(part);
    }
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What must be the same in a repeated request.
fn request_hash(begun: &Begun) -> String {
    let mut parts = vec![begun.query.as_str(), &begun.database, &begun.output, &begun.work_group];
    parts.extend(begun.parameters.iter().map(String::as_str));
    hash(&parts)
}

/// What the name of a result's file ends with.
fn extension(query: &str) -> &'static str {
    match Statement::parse(query) {
        Ok(Statement::Query) => ".csv",
        // Their results are files of their own.
        Ok(Statement::CreateTableAs(_) | Statement::Unload { .. }) => "",
        Ok(_) => ".txt",
        Err(_) if Kind::of(query) == Kind::Dml => ".csv",
        Err(_) => ".txt",
    }
}

fn described(execution: &Execution) -> Value {
    let Execution { id, begun, started, ended } = execution;
    let started_ms =
        ended.as_ref().and_then(|ended| ended.started_ms).or(started.as_ref().map(|started| started.started_ms));
    let failed = ended.as_ref().filter(|ended| ended.state == EndState::Failed);
    let error = failed.map(|ended| {
        json!({
            "ErrorCategory": if ended.users_fault { 2 } else { 1 },
            "Retryable": !ended.users_fault,
            "ErrorMessage": ended.reason,
        })
    });
    let mut context = BTreeMap::new();
    if begun.database_given {
        context.insert("Database", begun.database.clone());
    }
    context.extend(begun.catalog.clone().map(|catalog| ("Catalog", catalog)));
    json!({
        "QueryExecutionId": id,
        "Query": begun.query,
        "StatementType": begun.kind,
        "ResultConfiguration": { "OutputLocation": begun.output },
        "QueryExecutionContext": context,
        "ExecutionParameters": if begun.parameters.is_empty() { Value::Null } else { json!(begun.parameters) },
        "Status": {
            "State": execution.state(),
            "StateChangeReason": ended.as_ref().and_then(|ended| ended.reason.clone()),
            "SubmissionDateTime": seconds(begun.submitted_ms),
            "CompletionDateTime": ended.as_ref().map(|ended| seconds(ended.ended_ms)),
            "AthenaError": error,
        },
        "Statistics": statistics(begun, started_ms, ended.as_ref()),
        "WorkGroup": begun.work_group,
        "EngineVersion": engine(),
    })
}

fn statistics(begun: &Begun, started_ms: Option<u64>, ended: Option<&Ended>) -> Value {
    let between = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?));
    let (submitted, ended_ms) = (Some(begun.submitted_ms), ended.map(|ended| ended.ended_ms));
    json!({
        "EngineExecutionTimeInMillis": between(started_ms, ended_ms),
        "TotalExecutionTimeInMillis": between(submitted, ended_ms),
        "QueryQueueTimeInMillis": between(submitted, started_ms),
        "QueryPlanningTimeInMillis": between(started_ms, ended.and_then(|ended| ended.planned_ms)),
        "DataManifestLocation": ended.and_then(|ended| ended.manifest.clone()),
    })
}
