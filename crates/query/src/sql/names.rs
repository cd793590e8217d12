//! Column names without regard to case.
//!
//! DataFusion folds a name that is not quoted to lower case and then compares it exactly, so that a feature called
//! `CustomerId` could only be written `"CustomerId"`. Queries made for Athena write `CustomerId`, `customerid` or
//! `CUSTOMERID`. So before planning, a name that is not quoted and differs only in case from a column of the query's
//! tables is replaced by that column's exact name, in quotes. Where two columns differ only in case, only the exact
//! name is taken. Names in `USING (...)` and lists of names after `AS t` are left as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem, VisitMut, VisitorMut};

use crate::Error;

/// The exact names of columns by their names in lower case.
#[derive(Debug, Default)]
pub(super) struct Columns(BTreeMap<String, BTreeSet<String>>);

impl Columns {
    fn add(&mut self, name: &str) {
        self.0.entry(name.to_lowercase()).or_default().insert(name.to_owned());
    }

    fn exact(&self, name: &str) -> Option<&str> {
        let names = self.0.get(&name.to_lowercase())?;
        match names.get(name) {
            Some(exact) => Some(exact),
            None if names.len() == 1 => names.first().map(String::as_str),
            None => None,
        }
    }
}

/// The columns of all tables that a statement names.
pub(super) async fn columns_of(state: &SessionState, statement: &Statement) -> Result<Columns, Error> {
    let mut columns = Columns::default();
    for reference in state.resolve_table_references(statement)? {
        // What is not there is for the planner to tell.
        let Ok(schema) = state.schema_for_ref(reference.clone()) else {
            continue;
        };
        if let Some(table) = schema.table(reference.table()).await? {
            table.schema().fields().iter().for_each(|field| columns.add(field.name()));
        }
    }
    Ok(columns)
}

/// Gives every name that means one of `columns` its exact spelling.
pub(super) fn quote(statement: &mut Statement, columns: &Columns) {
    match statement {
        Statement::Statement(statement) => {
            let _: ControlFlow<()> = statement.visit(&mut Quote { columns });
        }
        Statement::Explain(explain) => quote(&mut explain.statement, columns),
        // None of these is allowed, which the planner's result tells.
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => {}
    }
}

struct Quote<'a> {
    columns: &'a Columns,
}

impl Quote<'_> {
    fn fix(&self, name: &mut Ident) {
        if name.quote_style.is_none()
            && let Some(exact) = self.columns.exact(&name.value)
        {
            *name = Ident { value: exact.to_owned(), quote_style: Some('"'), ..name.clone() };
        }
    }
}

impl VisitorMut for Quote<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.fix(name),
            Expr::CompoundIdentifier(path) => {
                if let Some(name) = path.last_mut() {
                    self.fix(name);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// An alias too: what is written alike must stay alike.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item {
                self.fix(alias);
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    fn quoted(sql: &str) -> String {
        let mut columns = Columns::default();
        ["CustomerId", "amount", "Total", "total"].into_iter().for_each(|name| columns.add(name));
        let mut statement = DFParser::parse_sql(sql).expect("SQL").pop_front().expect("a statement");
        quote(&mut statement, &columns);
        statement.to_string()
    }

    #[test]
    fn names_find_their_columns_in_any_case() {
        assert_eq!(
            quoted("SELECT CUSTOMERID, t.customerid AS CustomerID FROM t WHERE customerId = 'CUSTOMERID'"),
            r#"SELECT "CustomerId", t."CustomerId" AS "CustomerId" FROM t WHERE "CustomerId" = 'CUSTOMERID'"#
        );
    }

    #[test]
    fn quoted_and_ambiguous_names_stay() {
        assert_eq!(quoted(r#"SELECT "CUSTOMERID" FROM t"#), r#"SELECT "CUSTOMERID" FROM t"#);
        assert_eq!(
            quoted("SELECT TOTAL, Total, count(customers) FROM t"),
            r#"SELECT TOTAL, "Total", count(customers) FROM t"#
        );
    }

    #[test]
    fn explained_queries_are_queries() {
        assert_eq!(quoted("EXPLAIN SELECT AMOUNT FROM t"), r#"EXPLAIN SELECT "amount" FROM t"#);
    }
}
