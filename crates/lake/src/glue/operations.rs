//! Glue's operations.

use granary_api::aws::Call;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Database, Glue, Table, folded, not_found, store_failed};
use crate::json::{Fault, Reply, operation, page, seconds, shape};

/// The most items of a page, as on AWS.
const PAGE_MAX: usize = 100;
/// The most tables that one call deletes, as on AWS.
const DELETED_MAX: usize = 100;
/// The memory of a compiled expression, in bytes.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;

/// Every member that the operations here take; what a call needs is checked where it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    name: Option<String>,
    database_name: Option<String>,
    table_name: Option<String>,
    database_input: Option<Map<String, Value>>,
    table_input: Option<Map<String, Value>>,
    tables_to_delete: Vec<String>,
    expression: Option<String>,
    search_text: Option<String>,
    next_token: Option<String>,
    max_results: Option<usize>,
    version_id: Option<String>,
}

impl Asked {
    fn name(&self) -> Result<String, Fault> {
        folded(self.name.as_deref().ok_or_else(|| missing("Name"))?)
    }

    fn database(&self) -> Result<String, Fault> {
        folded(self.database_name.as_deref().ok_or_else(|| missing("DatabaseName"))?)
    }

    fn page_size(&self) -> usize {
        self.max_results.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
    }
}

fn missing(member: &str) -> Fault {
    Fault::new("InvalidInputException", format!("{member} is missing"))
}

impl Glue {
    pub(super) async fn run(&self, call: &Call) -> Reply {
        let name = operation(call);
        let asked: Asked = shape(call)?;
        match name {
            "GetDatabase" => self.get_database(&asked).await,
            "GetDatabases" => self.get_databases(&asked).await,
            "CreateDatabase" => self.create_database_asked(asked).await,
            "DeleteDatabase" => self.delete_database_asked(&asked).await,
            "GetTable" => self.get_table(&asked).await,
            "GetTables" => self.get_tables(&asked).await,
            "SearchTables" => self.search_tables(&asked).await,
            "CreateTable" => self.create_table_asked(asked).await,
            "UpdateTable" => self.update_table(asked).await,
            "DeleteTable" => self.delete_table_asked(&asked).await,
            "BatchDeleteTable" => self.batch_delete_table(&asked).await,
            "GetPartitions" => self.get_partitions(&asked).await,
            _ => Err(Fault::unknown_operation(call.target().unwrap_or_default())),
        }
    }

    async fn get_database(&self, asked: &Asked) -> Reply {
        let name = asked.name()?;
        self.check_database(&name).await?;
        Ok(json!({ "Database": self.described_database(&name).await? }))
    }

    async fn get_databases(&self, asked: &Asked) -> Reply {
        let names = self.databases().await?;
        let (names, next) = page(&names, String::as_str, asked.next_token.as_deref(), asked.page_size());
        let mut databases = Vec::with_capacity(names.len());
        for name in names {
            databases.push(self.described_database(name).await?);
        }
        Ok(json!({ "DatabaseList": databases, "NextToken": next }))
    }

    async fn described_database(&self, name: &str) -> Result<Value, Fault> {
        let kept = self.kept_database(name).await?;
        let Database { mut input, created_ms } = kept.unwrap_or(Database { input: Map::new(), created_ms: 0 });
        input.insert("Name".to_owned(), name.into());
        input.insert("CreateTime".to_owned(), seconds(created_ms).into());
        Ok(Value::Object(input))
    }

    async fn create_database_asked(&self, asked: Asked) -> Reply {
        let input = asked.database_input.ok_or_else(|| missing("DatabaseInput"))?;
        if self.create_database(input).await? {
            return Ok(json!({}));
        }
        Err(Fault::new("AlreadyExistsException", "Database already exists."))
    }

    async fn delete_database_asked(&self, asked: &Asked) -> Reply {
        let name = asked.name()?;
        self.check_database(&name).await?;
        if self.delete_database(&name).await? {
            return Ok(json!({}));
        }
        Err(Fault::new("InvalidInputException", format!("Database {name} belongs to feature groups, and stays")))
    }

    async fn get_table(&self, asked: &Asked) -> Reply {
        let (database, name) = (asked.database()?, asked.name()?);
        self.check_database(&database).await?;
        let table = self.table(&database, &name).await?.ok_or_else(|| not_found("Table", &name))?;
        Ok(json!({ "Table": described(&database, table) }))
    }

    async fn get_tables(&self, asked: &Asked) -> Reply {
        let database = asked.database()?;
        self.check_database(&database).await?;
        let mut names = self.table_names(&database).await?;
        if let Some(expression) = asked.expression.as_deref().filter(|expression| !expression.is_empty()) {
            let expression = compiled(expression)?;
            names.retain(|name| expression.is_match(name));
        }
        let (names, next) = page(&names, String::as_str, asked.next_token.as_deref(), asked.page_size());
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            // One may have been deleted since the names were listed.
            if let Some(table) = self.table(&database, name).await? {
                tables.push(described(&database, table));
            }
        }
        Ok(json!({ "TableList": tables, "NextToken": next }))
    }

    /// By the text of names, which is what clients without a search of their own ask for.
    async fn search_tables(&self, asked: &Asked) -> Reply {
        let text = asked.search_text.as_deref().unwrap_or_default().trim_matches('"').to_lowercase();
        let mut places = Vec::new();
        for database in self.databases().await? {
            let names = self.table_names(&database).await?;
            places.extend(names.into_iter().map(|name| format!("{database}/{name}")));
        }
        places.retain(|place| place.contains(&text));
        let (places, next) = page(&places, String::as_str, asked.next_token.as_deref(), asked.page_size());
        let mut tables = Vec::with_capacity(places.len());
        for place in places {
            let Some((database, name)) = place.split_once('/') else { continue };
            if let Some(table) = self.table(database, name).await? {
                tables.push(described(database, table));
            }
        }
        Ok(json!({ "TableList": tables, "NextToken": next }))
    }

    async fn create_table_asked(&self, asked: Asked) -> Reply {
        let database = asked.database()?;
        let input = asked.table_input.ok_or_else(|| missing("TableInput"))?;
        if self.create_table(&database, input).await? {
            return Ok(json!({}));
        }
        Err(Fault::new("AlreadyExistsException", "Table already exists."))
    }

    async fn update_table(&self, asked: Asked) -> Reply {
        let database = asked.database()?;
        self.check_database(&database).await?;
        let mut input = asked.table_input.ok_or_else(|| missing("TableInput"))?;
        let name = folded(input.get("Name").and_then(Value::as_str).unwrap_or_default())?;
        if let Some(group) = self.group(&database, &name) {
            return self.update_group(&group, asked.version_id.as_deref(), &input).await;
        }
        let kept = self.kept_table(&database, &name).await?.ok_or_else(|| not_found("Table", &name))?;
        check_version(asked.version_id.as_deref(), kept.version)?;
        input.insert("Name".to_owned(), name.clone().into());
        let updated_ms = self.platform.now_millis();
        let table = Table { input, created_ms: kept.created_ms, updated_ms, version: kept.version + 1 };
        self.documents.put(&self.table_path(&database, &name), &table).await.map_err(|e| store_failed(&e))?;
        Ok(json!({}))
    }

    async fn delete_table_asked(&self, asked: &Asked) -> Reply {
        let (database, name) = (asked.database()?, asked.name()?);
        self.check_database(&database).await?;
        if self.delete_table(&database, &name).await? { Ok(json!({})) } else { Err(not_found("Table", &name)) }
    }

    async fn batch_delete_table(&self, asked: &Asked) -> Reply {
        let database = asked.database()?;
        self.check_database(&database).await?;
        if asked.tables_to_delete.len() > DELETED_MAX {
            let message = format!("TablesToDelete has at most {DELETED_MAX} names");
            return Err(Fault::new("InvalidInputException", message));
        }
        let mut errors = Vec::new();
        for asked in &asked.tables_to_delete {
            let deleted = match folded(asked) {
                Ok(name) => self.delete_table(&database, &name).await,
                Err(fault) => Err(fault),
            };
            let fault = match deleted {
                Ok(true) => continue,
                Ok(false) => not_found("Table", asked),
                Err(fault) => fault,
            };
            let detail = json!({ "ErrorCode": fault.code, "ErrorMessage": fault.message });
            errors.push(json!({ "TableName": asked, "ErrorDetail": detail }));
        }
        Ok(json!({ "Errors": errors }))
    }

    async fn get_partitions(&self, asked: &Asked) -> Reply {
        let database = asked.database()?;
        self.check_database(&database).await?;
        let name = folded(asked.table_name.as_deref().ok_or_else(|| missing("TableName"))?)?;
        self.table(&database, &name).await?.ok_or_else(|| not_found("Table", &name))?;
        Ok(json!({ "Partitions": [] }))
    }
}

/// Refuses a call that builds on another version than there is.
pub(super) fn check_version(asked: Option<&str>, version: u64) -> Result<(), Fault> {
    if asked.is_some_and(|asked| asked != version.to_string()) {
        return Err(Fault::new("ConcurrentModificationException", "the table has another version"));
    }
    Ok(())
}

/// The expression of `GetTables` over a whole name; `*` alone stands for anything, as Glue takes it.
fn compiled(expression: &str) -> Result<Regex, Fault> {
    let text = if expression.contains(".*") { expression.to_owned() } else { expression.replace('*', ".*") };
    let text = format!("^(?:{text})$");
    let built = RegexBuilder::new(&text).case_insensitive(true).size_limit(EXPRESSION_BYTES_MAX).build();
    built.map_err(|error| Fault::new("InvalidInputException", format!("Expression is not understood: {error}")))
}

/// A table as `GetTable` tells it.
fn described(database: &str, table: Table) -> Value {
    let Table { mut input, created_ms, updated_ms, version } = table;
    input.insert("DatabaseName".to_owned(), database.into());
    input.insert("CreateTime".to_owned(), seconds(created_ms).into());
    input.insert("UpdateTime".to_owned(), seconds(updated_ms).into());
    input.insert("VersionId".to_owned(), version.to_string().into());
    input.insert("IsRegisteredWithLakeFormation".to_owned(), false.into());
    Value::Object(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_of_whole_names() {
        let matches = |expression: &str, name: &str| compiled(expression).expect("an expression").is_match(name);
        assert!(matches("users.*", "users_1") && matches("*user*", "my_users") && matches("a|b", "b"));
        assert!(!matches("user", "users") && !matches("users.*", "my_users"));
        assert!(compiled("(").is_err());
        assert!(compiled("(a{1000}){1000}").is_err());
    }
}
