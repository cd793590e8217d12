//! From Trino's SQL to DataFusion's: names without regard to case, functions by their other names, what must be refused.
//!
//! Every column and table has a lower-cased name here, as in AWS's data catalog. So quoted names are lower-cased where
//! they stand as tokens, and DataFusion folds the others.

use std::ops::ControlFlow;

use datafusion::error::{DataFusionError, Result};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, DataType, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, ObjectName, OrderByExpr, OrderByOptions,
    Query, Select, SelectItem, SetExpr, Statement as SqlStatement, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::functions::TIMESTAMP_LITERAL;

/// A statement ready to be planned, and the names its columns have in the answer.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) statement: Statement,
    pub(super) labels: Labels,
}

/// Reads and rewrites one query.
///
/// # Errors
/// What is no query, more than one, or not Trino's SQL.
pub(super) fn rewrite(sql: &str) -> Result<Rewritten> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| syntax(error.to_string()))?;
    let tokens: Vec<TokenWithSpan> = tokens.into_iter().flat_map(split_joined_words).collect();
    let labels = Labels::of(&parse(tokens.clone())?);
    let folded = tokens.into_iter().map(|token| TokenWithSpan { token: folded(token.token), span: token.span });
    let mut statement = parse(folded.collect())?;
    if let Some(sql) = sql_of(&mut statement)
        && let ControlFlow::Break(error) = sql.visit(&mut Rewrite::default())
    {
        return Err(error);
    }
    Ok(Rewritten { statement, labels })
}

fn syntax(message: String) -> DataFusionError {
    DataFusionError::Plan(message)
}

fn parse(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let mut statements = DFParserBuilder::new(tokens).with_dialect(&GenericDialect {}).build()?.parse_statements()?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (Some(_), false) => Err(syntax("Only one sql statement is allowed".to_owned())),
        (None, _) => Err(syntax("the statement is empty".to_owned())),
    }
}

/// `is_deletedAND`, which a dataset builder of SDK 3 writes, is two words.
fn split_joined_words(token: TokenWithSpan) -> Vec<TokenWithSpan> {
    let joined = matches!(&token.token, Token::Word(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("is_deletedand"));
    if !joined {
        return vec![token];
    }
    let words =
        [Token::make_word("is_deleted", None), Token::Whitespace(Whitespace::Space), Token::make_keyword("AND")];
    words.into_iter().map(|word| TokenWithSpan { token: word, span: token.span }).collect()
}

fn folded(token: Token) -> Token {
    match token {
        Token::Word(word) if word.quote_style.is_some() => {
            Token::Word(Word { value: word.value.to_lowercase(), ..word })
        }
        Token::DoubleQuotedString(text) => Token::DoubleQuotedString(text.to_lowercase()),
        other => other,
    }
}

fn sql_of(statement: &mut Statement) -> Option<&mut SqlStatement> {
    match statement {
        Statement::Statement(sql) => Some(sql),
        Statement::Explain(explain) => sql_of(&mut explain.statement),
        _ => None,
    }
}

/// The names of an answer's columns: as written in the outermost SELECT; `_col0` and so on where nothing is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Labels {
    /// A name or none for each column.
    Written(Vec<Option<String>>),
    /// Names and a `*` among them, which stands for the columns that are left.
    Around { before: Vec<Option<String>>, after: Vec<Option<String>> },
    /// Not to be told from the text: the columns' own names.
    Own,
}

impl Labels {
    fn of(statement: &Statement) -> Self {
        let Statement::Statement(sql) = statement else { return Self::Own };
        let SqlStatement::Query(query) = sql.as_ref() else { return Self::Own };
        let Some(select) = outermost(query) else { return Self::Own };
        let mut parts: Vec<Vec<Option<String>>> = vec![Vec::new()];
        for item in &select.projection {
            match item {
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => parts.push(Vec::new()),
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => push(&mut parts, Some(name)),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(path)) => push(&mut parts, path.last()),
                SelectItem::ExprWithAlias { alias, .. } => push(&mut parts, Some(alias)),
                _ => push(&mut parts, None),
            }
        }
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(all), None, _) => Self::Written(all),
            (Some(before), Some(after), None) => Self::Around { before, after },
            _ => Self::Own,
        }
    }

    /// The names of columns whose own names are `own`.
    pub(super) fn apply(&self, own: &[&str]) -> Vec<String> {
        let of = |index: usize, label: &Option<String>| label.clone().unwrap_or_else(|| format!("_col{index}"));
        let written = |labels: &[Option<String>], first: usize| {
            labels.iter().enumerate().map(|(index, label)| of(first + index, label)).collect::<Vec<_>>()
        };
        match self {
            Self::Written(all) if all.len() == own.len() => written(all, 0),
            Self::Around { before, after } if before.len() + after.len() <= own.len() => {
                let tail = own.len() - after.len();
                let mut names = written(before, 0);
                names.extend(own[before.len()..tail].iter().map(|name| (*name).to_owned()));
                names.extend(written(after, tail));
                names
            }
            _ => own.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

fn push(parts: &mut [Vec<Option<String>>], name: Option<&Ident>) {
    if let Some(part) = parts.last_mut() {
        part.push(name.map(|name| name.value.clone()));
    }
}

fn outermost(query: &Query) -> Option<&Select> {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::Select(select) => return Some(select),
            SetExpr::Query(query) => body = query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left,
            _ => return None,
        }
    }
}

/// The most tables of a statement, however often each is named: every one after the first is joined to all before it, so a
/// plan is as deep as they are many, and needs some 25 KiB of stack for each.
const TABLES_MAX: usize = 1_000;

#[derive(Debug, Default)]
struct Rewrite {
    tables: usize,
}

impl VisitorMut for Rewrite {
    type Break = DataFusionError;

    fn pre_visit_table_factor(&mut self, _: &mut TableFactor) -> ControlFlow<DataFusionError> {
        self.tables += 1;
        if self.tables > TABLES_MAX {
            return ControlFlow::Break(syntax(format!("a statement names at most {TABLES_MAX} tables")));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        match expr {
            Expr::TypedString(literal) if is_timestamp(&literal.data_type) => {
                let text = Expr::Value(literal.value.clone());
                *expr = call(TIMESTAMP_LITERAL, vec![text]);
            }
            Expr::Cast { data_type, .. } => fix_type(data_type),
            Expr::Function(function) => {
                if let Some(other) = rewrite_function(function) {
                    *expr = other;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn is_timestamp(kind: &DataType) -> bool {
    matches!(kind, DataType::Timestamp(..) | DataType::Datetime(_) | DataType::TimestampNtz(_))
}

/// Microseconds hold every year that event times have; DataFusion's nanoseconds end in 2262.
fn fix_type(kind: &mut DataType) {
    if let DataType::Timestamp(precision, _) = kind {
        *precision = Some(6);
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(Ident::new(name)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: arguments.into_iter().map(unnamed).collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn unnamed(argument: Expr) -> FunctionArg {
    FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))
}

/// What DataFusion calls a function of Trino's that means the same.
const OTHER_NAMES: [(&str, &str); 13] = [
    ("approx_percentile", "approx_percentile_cont"),
    ("arbitrary", "any_value"),
    ("array_join", "array_to_string"),
    ("bitwise_and_agg", "bit_and"),
    ("bitwise_or_agg", "bit_or"),
    ("ceiling", "ceil"),
    ("contains", "array_has"),
    ("element_at", "array_element"),
    ("every", "bool_and"),
    ("rand", "random"),
    ("split", "string_to_array"),
    ("sequence", "generate_series"),
    ("truncate", "trunc"),
];

/// Another expression, or the same with another name.
fn rewrite_function(function: &mut Function) -> Option<Expr> {
    let [part] = function.name.0.as_slice() else { return None };
    let name = part.as_ident()?.value.to_lowercase();
    if let Some((_, other)) = OTHER_NAMES.iter().find(|(trino, _)| *trino == name) {
        function.name = ObjectName::from(Ident::new(*other));
        return None;
    }
    let FunctionArguments::List(list) = &mut function.args else { return None };
    let expressions: Option<Vec<Expr>> = list.args.iter().map(expression).collect();
    let mut arguments = expressions?.into_iter();
    match (name.as_str(), list.args.len()) {
        ("if", 2 | 3) => Some(case(arguments.next()?, arguments.next()?, arguments.next())),
        ("mod", 2) => Some(binary(arguments.next()?, BinaryOperator::Modulo, arguments.next()?)),
        // With a null in it the result is null, which DataFusion's concat skips.
        ("concat", 2..) => concat(&mut arguments),
        ("date", 1) => Some(Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(arguments.next()?),
            data_type: DataType::Date,
            array: false,
            format: None,
        }),
        ("count_if", 1) => {
            function.filter = match function.filter.take() {
                Some(filter) => Some(Box::new(binary(*filter, BinaryOperator::And, arguments.next()?))),
                None => Some(Box::new(arguments.next()?)),
            };
            list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Wildcard)];
            function.name = ObjectName::from(Ident::new("count"));
            None
        }
        ("max_by" | "min_by", 2) if function.over.is_none() => {
            let (value, by) = (arguments.next()?, arguments.next()?);
            // Rows without a value to compare do not count: where there are no others the result is null.
            let compared = Box::new(Expr::IsNotNull(Box::new(Expr::Nested(Box::new(by.clone())))));
            function.filter = Some(match function.filter.take() {
                Some(filter) => Box::new(binary(*filter, BinaryOperator::And, *compared)),
                None => compared,
            });
            let options = OrderByOptions { asc: Some(name == "min_by"), nulls_first: Some(false) };
            list.args = vec![unnamed(value)];
            list.clauses.push(FunctionArgumentClause::OrderBy(vec![OrderByExpr {
                expr: by,
                options,
                with_fill: None,
            }]));
            function.name = ObjectName::from(Ident::new("first_value"));
            None
        }
        _ => None,
    }
    .filter(|_| list_is_plain(function))
}

/// `a || b || …` as a tree whose halves are alike: one that leans to a side would be as deep as there are arguments, and
/// those of one call can be a hundred thousand.
fn concat(arguments: &mut std::vec::IntoIter<Expr>) -> Option<Expr> {
    match arguments.len() {
        0 => None,
        1 => arguments.next(),
        count => {
            let mut left = arguments.by_ref().take(count.div_ceil(2)).collect::<Vec<_>>().into_iter();
            Some(binary(concat(&mut left)?, BinaryOperator::StringConcat, concat(arguments)?))
        }
    }
}

/// Neither DISTINCT nor FILTER nor OVER: nothing would be lost by another expression.
fn list_is_plain(function: &Function) -> bool {
    let distinct = matches!(&function.args, FunctionArguments::List(list)
        if list.duplicate_treatment == Some(DuplicateTreatment::Distinct));
    !distinct && function.filter.is_none() && function.over.is_none()
}

fn expression(argument: &FunctionArg) -> Option<Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    let nested = |expr| Box::new(Expr::Nested(Box::new(expr)));
    Expr::BinaryOp { left: nested(left), op, right: nested(right) }
}

fn case(condition: Expr, result: Expr, other: Option<Expr>) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result }],
        else_result: other.map(Box::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> String {
        rewrite(sql).expect("a query").statement.to_string()
    }

    fn labels(sql: &str, own: &[&str]) -> Vec<String> {
        rewrite(sql).expect("a query").labels.apply(own)
    }

    #[test]
    fn quoted_names_are_folded_and_texts_are_not() {
        assert_eq!(
            rewritten(r#"SELECT "Fg.Base", 'Text' FROM "DB"."T-1";"#),
            r#"SELECT "fg.base", 'Text' FROM "db"."t-1""#
        );
    }

    #[test]
    fn answers_keep_the_names_that_were_written() {
        assert_eq!(
            labels("SELECT Id, t.\"X.1\", 1, count(*) AS N FROM t", &["id", "x.1", "a", "n"]),
            ["Id", "X.1", "_col2", "N"]
        );
        assert_eq!(labels("SELECT *, 1 AS One FROM t", &["a", "b", "one"]), ["a", "b", "One"]);
        assert_eq!(labels("SELECT Id FROM t UNION ALL SELECT b FROM u", &["id"]), ["Id"]);
        assert_eq!(labels("SELECT a.*, b.* FROM a, b", &["x", "y"]), ["x", "y"]);
    }

    #[test]
    fn a_cross_join_takes_no_condition() {
        assert!(rewrite("SELECT * FROM a CROSS JOIN b ON a.x = b.x").is_err());
        assert!(rewrite("SELECT * FROM a CROSS JOIN b").is_ok());
        assert!(rewrite("SELECT * FROM (SELECT * FROM a CROSS JOIN b ON a.x = b.x)").is_err());
    }

    #[test]
    fn two_statements_are_refused_and_a_semicolon_is_not() {
        assert!(rewrite("SELECT 1;").is_ok());
        assert!(rewrite("SELECT 1; SELECT 2").is_err());
        assert!(rewrite(";").is_err());
    }

    #[test]
    fn words_that_a_builder_joined_are_two() {
        assert_eq!(rewritten("SELECT 1 WHERE NOT is_deletedAND x"), "SELECT 1 WHERE NOT is_deleted AND x");
    }

    /// The deepest nesting of parentheses in a text.
    fn depth(text: &str) -> usize {
        let (mut open, mut deepest) = (0_usize, 0);
        for c in text.chars() {
            match c {
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            deepest = deepest.max(open);
        }
        deepest
    }

    #[test]
    fn many_arguments_of_concat_make_no_deep_tree() {
        let sql = format!("SELECT concat(0{})", ",1".repeat(100_000));
        let text = rewritten(&sql);
        assert!(depth(&text) <= 18, "{}", depth(&text));
        assert_eq!(text.matches("||").count(), 100_000);
    }

    #[test]
    fn a_statement_of_too_many_tables_is_refused() {
        let of = |count: usize| format!("SELECT 1 FROM t{}", ", t".repeat(count - 1));
        assert!(rewrite(&of(TABLES_MAX)).is_ok());
        let refused = rewrite(&of(TABLES_MAX + 1)).expect_err("too many").to_string();
        assert!(refused.contains("at most 1000 tables"), "{refused}");
    }

    #[test]
    fn functions_get_their_other_names() {
        assert_eq!(rewritten("SELECT if(a, 1, 2)"), "SELECT CASE WHEN a THEN 1 ELSE 2 END");
        assert_eq!(rewritten("SELECT concat(a, 'x', b)"), "SELECT ((a) || ('x')) || (b)");
        assert_eq!(rewritten("SELECT count_if(a > 1)"), "SELECT count(*) FILTER (WHERE a > 1)");
        assert_eq!(
            rewritten("SELECT max_by(x, y)"),
            "SELECT first_value(x ORDER BY y DESC NULLS LAST) FILTER (WHERE (y) IS NOT NULL)"
        );
        assert_eq!(
            rewritten("SELECT min_by(x, y) FILTER (WHERE z)"),
            "SELECT first_value(x ORDER BY y ASC NULLS LAST) FILTER (WHERE (z) AND ((y) IS NOT NULL))"
        );
        assert_eq!(rewritten("SELECT cast(x AS timestamp)"), "SELECT CAST(x AS TIMESTAMP(6))");
        assert_eq!(
            rewritten("SELECT timestamp '2020-01-01 00:00:00'"),
            "SELECT granary_timestamp('2020-01-01 00:00:00')"
        );
    }
}
