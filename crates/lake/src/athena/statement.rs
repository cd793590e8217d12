//! What a statement is: a query, or one of the Hive and Trino statements that change or describe the data catalog.
//!
//! Queries go to the query service as they are. The others are read here, since they name files, formats and properties
//! that no query planner knows.

use std::collections::BTreeMap;

mod words;

use words::Tokens;
pub(super) use words::opaque;

/// A table's name, lower-cased; without a database the query's own is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableName {
    pub(super) database: Option<String>,
    pub(super) table: String,
}

/// `CREATE EXTERNAL TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CreateTable {
    pub(super) name: TableName,
    pub(super) if_not_exists: bool,
    /// Names and Hive types.
    pub(super) columns: Vec<(String, String)>,
    pub(super) serde: String,
    pub(super) serde_properties: BTreeMap<String, String>,
    pub(super) input_format: String,
    pub(super) output_format: String,
    pub(super) location: String,
    pub(super) properties: BTreeMap<String, String>,
}

/// `CREATE TABLE … AS` a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CreateTableAs {
    pub(super) name: TableName,
    pub(super) if_not_exists: bool,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) query: String,
    pub(super) with_data: bool,
}

/// A statement by what is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Query,
    CreateTable(Box<CreateTable>),
    CreateTableAs(Box<CreateTableAs>),
    Unload {
        query: String,
        location: String,
        properties: BTreeMap<String, String>,
    },
    DropTable {
        name: TableName,
        if_exists: bool,
    },
    CreateDatabase {
        name: String,
        if_not_exists: bool,
    },
    DropDatabase {
        name: String,
        if_exists: bool,
        cascade: bool,
    },
    ShowDatabases {
        like: Option<String>,
    },
    ShowTables {
        database: Option<String>,
        like: Option<String>,
    },
    ShowColumns {
        name: TableName,
    },
    ShowPartitions {
        name: TableName,
    },
    Describe {
        name: TableName,
    },
    /// Finds partitions, of which there are none.
    Repair {
        name: TableName,
    },
}

/// Athena's kinds of statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dml,
    Ddl,
    Utility,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dml => "DML",
            Self::Ddl => "DDL",
            Self::Utility => "UTILITY",
        }
    }

    /// By the first word, for a statement that may turn out to be none.
    pub(super) fn of(sql: &str) -> Self {
        let first = Tokens::new(sql).next_word().unwrap_or_default();
        match first.as_str() {
            "create" | "drop" | "alter" | "msck" => Self::Ddl,
            "show" | "describe" | "desc" | "explain" => Self::Utility,
            _ => Self::Dml,
        }
    }
}

impl Statement {
    /// Reads a statement.
    ///
    /// # Errors
    /// What stands where something else is expected, as Athena's reason begins with.
    pub(super) fn parse(sql: &str) -> Result<Self, String> {
        let mut tokens = Tokens::new(sql);
        let statement = match tokens.next_word().as_deref() {
            Some("create") => create(&mut tokens)?,
            Some("drop") => drop_one(&mut tokens)?,
            Some("show") => show(&mut tokens)?,
            Some("describe" | "desc") => {
                tokens.take("extended");
                tokens.take("formatted");
                Self::Describe { name: tokens.table_name()? }
            }
            Some("msck") => {
                tokens.expect(&["repair", "table"])?;
                Self::Repair { name: tokens.table_name()? }
            }
            Some("unload") => unload(&mut tokens)?,
            Some(
                other @ ("alter" | "insert" | "delete" | "update" | "merge" | "vacuum" | "optimize" | "prepare"
                | "execute"),
            ) => {
                return Err(format!(
                    "NOT_SUPPORTED: Granary's Athena does not run {} statements",
                    other.to_uppercase()
                ));
            }
            _ => return Ok(Self::Query),
        };
        // A query that was cut out of the text ended the tokens.
        tokens.end()?;
        Ok(statement)
    }
}

fn create(tokens: &mut Tokens<'_>) -> Result<Statement, String> {
    if tokens.take("external") {
        tokens.expect(&["table"])?;
        let if_not_exists = tokens.take_all(&["if", "not", "exists"]);
        let name = tokens.table_name()?;
        return create_external(tokens, name, if_not_exists);
    }
    if tokens.take("database") || tokens.take("schema") {
        let if_not_exists = tokens.take_all(&["if", "not", "exists"]);
        let name = tokens.name()?;
        // A comment, a place and properties say nothing that is kept here.
        tokens.skip_rest();
        return Ok(Statement::CreateDatabase { name, if_not_exists });
    }
    if !tokens.take("table") {
        return Err(tokens.unexpected("EXTERNAL TABLE, TABLE, DATABASE or SCHEMA"));
    }
    let if_not_exists = tokens.take_all(&["if", "not", "exists"]);
    let name = tokens.table_name()?;
    let properties = if tokens.take("with") { tokens.properties()? } else { BTreeMap::new() };
    if !tokens.take("as") {
        return Err(
            "NOT_SUPPORTED: a table is made of files, by CREATE EXTERNAL TABLE, or of a query, by CREATE TABLE AS"
                .to_owned(),
        );
    }
    let mut query = tokens.rest().trim_end_matches(|c: char| c == ';' || c.is_whitespace()).to_owned();
    let folded = query.to_lowercase();
    let with_data = !folded.ends_with("with no data");
    for end in ["with no data", "with data"] {
        if folded.ends_with(end)
            && query.is_char_boundary(query.len().saturating_sub(end.len()))
            && folded.len() == query.len()
        {
            query.truncate(query.len() - end.len());
            break;
        }
    }
    let query = query.trim().to_owned();
    Ok(Statement::CreateTableAs(Box::new(CreateTableAs { name, if_not_exists, properties, query, with_data })))
}

const TEXT_INPUT: &str = "org.apache.hadoop.mapred.TextInputFormat";
const TEXT_OUTPUT: &str = "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat";
pub(crate) const PARQUET_INPUT: &str = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat";
pub(crate) const PARQUET_OUTPUT: &str = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat";
pub(crate) const PARQUET_SERDE: &str = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe";
const SIMPLE_SERDE: &str = "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe";

fn create_external(tokens: &mut Tokens<'_>, name: TableName, if_not_exists: bool) -> Result<Statement, String> {
    let mut table = CreateTable {
        name,
        if_not_exists,
        columns: tokens.columns()?,
        serde: SIMPLE_SERDE.to_owned(),
        serde_properties: BTreeMap::new(),
        input_format: TEXT_INPUT.to_owned(),
        output_format: TEXT_OUTPUT.to_owned(),
        location: String::new(),
        properties: BTreeMap::new(),
    };
    loop {
        if tokens.take("comment") {
            tokens.text()?;
        } else if tokens.take_all(&["row", "format", "serde"]) {
            table.serde = tokens.text()?;
        } else if tokens.take_all(&["row", "format", "delimited"]) {
            delimited(tokens, &mut table.serde_properties)?;
        } else if tokens.take_all(&["with", "serdeproperties"]) {
            table.serde_properties.extend(tokens.properties()?);
        } else if tokens.take_all(&["stored", "as"]) {
            stored_as(tokens, &mut table)?;
        } else if tokens.take("location") {
            table.location = tokens.text()?;
        } else if tokens.take("tblproperties") {
            table.properties.extend(tokens.properties()?);
        } else if tokens.take("partitioned") || tokens.take("clustered") {
            return Err("NOT_SUPPORTED: tables without partitions and buckets are served".to_owned());
        } else {
            break;
        }
    }
    if table.location.is_empty() {
        return Err("SYNTAX_ERROR: an external table needs a LOCATION".to_owned());
    }
    Ok(Statement::CreateTable(Box::new(table)))
}

fn delimited(tokens: &mut Tokens<'_>, properties: &mut BTreeMap<String, String>) -> Result<(), String> {
    loop {
        let name = if tokens.take_all(&["fields", "terminated", "by"]) {
            "field.delim"
        } else if tokens.take_all(&["escaped", "by"]) {
            "escape.delim"
        } else if tokens.take_all(&["lines", "terminated", "by"]) {
            "line.delim"
        } else if tokens.take_all(&["null", "defined", "as"]) {
            "serialization.null.format"
        } else {
            return Ok(());
        };
        properties.insert(name.to_owned(), tokens.text()?);
    }
}

fn stored_as(tokens: &mut Tokens<'_>, table: &mut CreateTable) -> Result<(), String> {
    if tokens.take("parquet") {
        table.serde = PARQUET_SERDE.to_owned();
        (table.input_format, table.output_format) = (PARQUET_INPUT.to_owned(), PARQUET_OUTPUT.to_owned());
    } else if tokens.take("inputformat") {
        table.input_format = tokens.text()?;
        tokens.expect(&["outputformat"])?;
        table.output_format = tokens.text()?;
    } else if !tokens.take("textfile") {
        return Err(tokens.unexpected("PARQUET, TEXTFILE or INPUTFORMAT"));
    }
    Ok(())
}

fn drop_one(tokens: &mut Tokens<'_>) -> Result<Statement, String> {
    if tokens.take("table") {
        let if_exists = tokens.take_all(&["if", "exists"]);
        return Ok(Statement::DropTable { name: tokens.table_name()?, if_exists });
    }
    if tokens.take("database") || tokens.take("schema") {
        let if_exists = tokens.take_all(&["if", "exists"]);
        let name = tokens.name()?;
        let cascade = tokens.take("cascade");
        tokens.take("restrict");
        return Ok(Statement::DropDatabase { name, if_exists, cascade });
    }
    Err(tokens.unexpected("TABLE, DATABASE or SCHEMA"))
}

fn show(tokens: &mut Tokens<'_>) -> Result<Statement, String> {
    if tokens.take("databases") || tokens.take("schemas") {
        return Ok(Statement::ShowDatabases { like: tokens.like()? });
    }
    if tokens.take("tables") {
        let database = if tokens.take("in") || tokens.take("from") { Some(tokens.name()?) } else { None };
        return Ok(Statement::ShowTables { database, like: tokens.like()? });
    }
    if tokens.take("columns") {
        if !(tokens.take("in") || tokens.take("from")) {
            return Err(tokens.unexpected("IN or FROM"));
        }
        let mut name = tokens.table_name()?;
        if tokens.take("in") || tokens.take("from") {
            name.database = Some(tokens.name()?);
        }
        return Ok(Statement::ShowColumns { name });
    }
    if tokens.take("partitions") {
        return Ok(Statement::ShowPartitions { name: tokens.table_name()? });
    }
    Err(tokens.unexpected("DATABASES, SCHEMAS, TABLES, COLUMNS or PARTITIONS"))
}

/// `UNLOAD (query) TO 's3://…' WITH (format = 'PARQUET')`.
fn unload(tokens: &mut Tokens<'_>) -> Result<Statement, String> {
    let query = tokens.parenthesised()?;
    tokens.expect(&["to"])?;
    let location = tokens.text()?;
    let properties = if tokens.take("with") { tokens.properties()? } else { BTreeMap::new() };
    Ok(Statement::Unload { query, location, properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As SDK 2's dataset builder writes it.
    const BUILDER: &str = "CREATE EXTERNAL TABLE dataframe_dataframe_base_1_a (base_id INT, ev STRING, x DOUBLE)\n \
        ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' WITH SERDEPROPERTIES (\"separatorChar\" = \",\", \
        \"quoteChar\" = \"`\", \"escapeChar\" = \"\\\\\") LOCATION 's3://bucket/out/dataframe-base';";

    #[test]
    fn a_builders_table_is_read() {
        let Ok(Statement::CreateTable(table)) = Statement::parse(BUILDER) else {
            panic!("{:?}", Statement::parse(BUILDER));
        };
        assert_eq!(table.name, TableName { database: None, table: "dataframe_dataframe_base_1_a".to_owned() });
        let column = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        assert_eq!(table.columns, [column("base_id", "int"), column("ev", "string"), column("x", "double")]);
        assert_eq!(table.serde, "org.apache.hadoop.hive.serde2.OpenCSVSerde");
        assert_eq!(table.serde_properties["quoteChar"], "`");
        assert_eq!(table.serde_properties["escapeChar"], "\\");
        assert_eq!(table.location, "s3://bucket/out/dataframe-base");
    }

    #[test]
    fn tables_of_queries_are_read() {
        let sql = "CREATE TABLE \"Db\".\"Temp\"\nWITH( external_location = 's3://b/x', format = 'PARQUET')\nAS SELECT 1 AS a;";
        let Ok(Statement::CreateTableAs(table)) = Statement::parse(sql) else { panic!("{:?}", Statement::parse(sql)) };
        assert_eq!(table.name, TableName { database: Some("db".to_owned()), table: "temp".to_owned() });
        assert_eq!(table.properties["external_location"], "s3://b/x");
        assert_eq!((table.query.as_str(), table.with_data), ("SELECT 1 AS a", true));
        let empty = Statement::parse("CREATE TABLE t AS SELECT 1 WITH NO DATA");
        assert!(matches!(empty, Ok(Statement::CreateTableAs(table)) if !table.with_data && table.query == "SELECT 1"));
    }

    #[test]
    fn an_unload_keeps_its_query() {
        let sql =
            "UNLOAD (SELECT ')' AS a, (1) AS b) TO 's3://b/x/' WITH (format='PARQUET', partitioned_by=ARRAY['a'])";
        let Ok(Statement::Unload { query, location, properties }) = Statement::parse(sql) else {
            panic!("{:?}", Statement::parse(sql));
        };
        assert_eq!((query.as_str(), location.as_str()), ("SELECT ')' AS a, (1) AS b", "s3://b/x/"));
        assert_eq!(properties["format"], "PARQUET");
        for query in
            ["SELECT 1 /* ) ' */ AS a", "SELECT 1 -- ) \"\n AS a", "SELECT 'it''s )' AS \"(\"", "SELECT '\\' AS a"]
        {
            let read = Statement::parse(&format!("UNLOAD ({query}) TO 's3://b/x/'"));
            assert!(matches!(&read, Ok(Statement::Unload { query: kept, .. }) if kept == query), "{read:?}");
        }
    }

    #[test]
    fn small_statements_are_read() {
        let name = TableName { database: Some("db".to_owned()), table: "t".to_owned() };
        let of = |sql| Statement::parse(sql).expect("a statement");
        assert_eq!(of("DROP TABLE IF EXISTS `db`.`T`;"), Statement::DropTable { name: name.clone(), if_exists: true });
        assert_eq!(of("describe db.t"), Statement::Describe { name: name.clone() });
        assert_eq!(
            of("SHOW TABLES IN db 'a*'"),
            Statement::ShowTables { database: Some("db".to_owned()), like: Some("a*".to_owned()) }
        );
        assert_eq!(
            of("CREATE SCHEMA IF NOT EXISTS Db COMMENT 'x'"),
            Statement::CreateDatabase { name: "db".to_owned(), if_not_exists: true }
        );
        assert_eq!(of("MSCK REPAIR TABLE db.t"), Statement::Repair { name });
        assert_eq!(of("-- a comment\n WITH x AS (SELECT 1) SELECT * FROM x"), Statement::Query);
    }

    #[test]
    fn what_is_not_served_is_said() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "CREATE EXTERNAL TABLE t (a INT)",
            "CREATE EXTERNAL TABLE t (a INT) PARTITIONED BY (b INT) LOCATION 's3://b/'",
            "CREATE TABLE t (a INT)",
            "DROP VIEW v",
            "DROP TABLE t u",
            "SHOW",
            "UNLOAD (SELECT 1",
            "CREATE EXTERNAL TABLE t (a INT LOCATION 's3://b/'",
        ] {
            assert!(Statement::parse(sql).is_err(), "{sql}");
        }
    }
}
