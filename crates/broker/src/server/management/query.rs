//! What a query asks of a list: some columns, an order, a name, a page.

use super::answer::{Answer, Refused, Result};
use serde_json::{Map, Value as Json, json};
use std::cmp::Ordering;

/// The rows of a page, if nobody asks for more or less.
const PAGE: usize = 100;
/// The most.
const LARGEST_PAGE: usize = 500;

/// A query, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn read(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        let wrong = |_| Refused::bad(format!("{name} has to be a number"));
        self.get(name).map(|text| text.parse().map_err(wrong)).transpose()
    }

    /// Cuts and sorts an answer as the query asks.
    pub(super) fn apply(&self, answer: Answer) -> Result<Answer> {
        match answer {
            Answer::List(rows) => self.list(rows),
            Answer::Json(row) => Ok(Answer::Json(self.columns(row))),
            other => Ok(other),
        }
    }

    fn list(&self, mut rows: Vec<Json>) -> Result<Answer> {
        let total = rows.len();
        if let Some(part) = self.get("name").filter(|part| !part.is_empty()) {
            rows.retain(|row| row["name"].as_str().is_some_and(|name| name.contains(part)));
        }
        if let Some(column) = self.get("sort") {
            rows.sort_by(|one, other| compare(path(one, column), path(other, column)));
            if self.is_set("sort_reverse") {
                rows.reverse();
            }
        }
        let Some(page) = self.number("page")? else {
            return Ok(Answer::List(rows.into_iter().map(|row| self.columns(row)).collect()));
        };
        let size = self.number("page_size")?.unwrap_or(PAGE);
        if page == 0 || !(1..=LARGEST_PAGE).contains(&size) {
            return Err(Refused::bad(format!("pages begin with 1 and have 1 to {LARGEST_PAGE} rows")));
        }
        let filtered = rows.len();
        let pages = filtered.div_ceil(size).max(1);
        if page > pages {
            return Err(Refused::bad(format!("page {page} is beyond the last one, {pages}")));
        }
        let items: Vec<Json> =
            rows.into_iter().skip((page - 1) * size).take(size).map(|row| self.columns(row)).collect();
        Ok(Answer::Json(json!({
            "page": page,
            "page_count": pages,
            "page_size": size,
            "item_count": items.len(),
            "filtered_count": filtered,
            "total_count": total,
            "items": items,
        })))
    }

    fn columns(&self, row: Json) -> Json {
        let Some(columns) = self.get("columns") else { return row };
        let mut kept = Map::new();
        for column in columns.split(',') {
            insert(&mut kept, column, path(&row, column));
        }
        Json::Object(kept)
    }
}

/// `a.b` is `b` of `a`.
fn path<'r>(row: &'r Json, column: &str) -> &'r Json {
    column.split('.').fold(row, |value, name| &value[name])
}

fn insert(map: &mut Map<String, Json>, column: &str, value: &Json) {
    match column.split_once('.') {
        _ if value.is_null() => {}
        None => _ = map.insert(column.to_owned(), value.clone()),
        Some((first, rest)) => {
            if let Json::Object(inner) = map.entry(first).or_insert_with(|| json!({})) {
                insert(inner, rest, value);
            }
        }
    }
}

fn compare(one: &Json, other: &Json) -> Ordering {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => {
            one.as_f64().unwrap_or(0.0).total_cmp(&other.as_f64().unwrap_or(0.0))
        }
        (Json::String(one), Json::String(other)) => one.cmp(other),
        _ => one.to_string().cmp(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Json> {
        [("b", 10), ("a", 9), ("ab", 100)].map(|(name, n)| json!({ "name": name, "n": n, "x": { "y": n } })).into()
    }

    fn applied(query: &str) -> Json {
        match Query::read(query).apply(Answer::List(rows())) {
            Ok(Answer::List(rows)) => Json::Array(rows),
            Ok(Answer::Json(json)) => json,
            other => panic!("{query}: {other:?}"),
        }
    }

    #[test]
    fn lists_are_cut_and_sorted() {
        assert_eq!(applied("columns=name&sort=n&sort_reverse=true"), json!([{"name":"ab"},{"name":"b"},{"name":"a"}]));
        assert_eq!(applied("columns=x.y,none&sort=name"), json!([{"x":{"y":9}},{"x":{"y":100}},{"x":{"y":10}}]));
        let page = applied("page=2&page_size=1&name=a&columns=name&sort=name");
        assert_eq!(page["items"], json!([{"name":"ab"}]));
        assert_eq!(
            (&page["page_count"], &page["filtered_count"], &page["total_count"]),
            (&json!(2), &json!(2), &json!(3))
        );
        for wrong in ["page=0", "page=2", "page=x", "page=1&page_size=0", "page=1&page_size=501"] {
            assert!(Query::read(wrong).apply(Answer::List(rows())).is_err(), "{wrong}");
        }
    }
}
