//! Lists of items, a page at a time.

use crate::error::{ApiError, Fault};
use axum::http::Uri;
use serde_json::{Value, json};
use std::collections::HashSet;
use utoipa::{IntoParams, ToSchema};

/// Items of a page, if nobody says how many.
const USUAL: usize = 20;

/// Which page is wanted.
#[derive(Debug, PartialEq, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageOf {
    /// Whether the last items come first.
    #[param(inline, value_type = Option<Order>)]
    order: Order,
    /// Items at most.
    #[param(value_type = Option<u8>, minimum = 1, maximum = 100, default = 20)]
    limit: usize,
    /// The id of an item: those behind it in this order are wanted.
    after: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ToSchema)]
#[schema(rename_all = "lowercase", default = "desc")]
enum Order {
    Asc,
    #[default]
    Desc,
}

impl PageOf {
    /// What the address of a request asks for; parameters that mean nothing here are left alone.
    pub fn read(uri: &Uri) -> Result<PageOf, ApiError> {
        let mut page = PageOf { order: Order::default(), limit: USUAL, after: None };
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("order", "asc") => page.order = Order::Asc,
                ("order", "desc") => page.order = Order::Desc,
                ("order", other) => {
                    return Err(ApiError::invalid(
                        "order",
                        format!("`asc` or `desc` was expected, not {other:?}"),
                    ));
                }
                ("limit", number) => {
                    let limit = number.parse().ok().filter(|limit| (1..=100).contains(limit));
                    let problem = || format!("a number from 1 to 100 was expected, not {number:?}");
                    page.limit = limit.ok_or_else(|| ApiError::invalid("limit", problem()))?;
                }
                ("after", id) => page.after = Some(id.to_owned()),
                _ => {}
            }
        }
        Ok(page)
    }

    /// That page of the items of a response. All have an id there, that no other of them has.
    pub fn of(&self, items: &[Value], response: &str) -> Result<Value, ApiError> {
        let mut named: Vec<_> = ids(items, response).into_iter().zip(items).collect();
        if self.order == Order::Desc {
            named.reverse();
        }
        let begin = match &self.after {
            None => 0,
            Some(after) => match named.iter().position(|(id, _)| id == after) {
                Some(at) => at + 1,
                None => {
                    let message = format!("after: no item here has the id {after:?}");
                    return Err(ApiError::new(Fault::Thing, message).at("after"));
                }
            },
        };
        let (rest, most) = (&named[begin..], self.limit.min(named.len() - begin));
        let with_id = |(id, item): &(String, &Value)| {
            let mut item = (*item).clone();
            item["id"] = json!(id);
            item
        };
        let page: Vec<Value> = rest[..most].iter().map(with_id).collect();
        let id_of = |item: Option<&Value>| item.map(|item| item["id"].clone());
        Ok(json!({
            "object": "list", "first_id": id_of(page.first()), "last_id": id_of(page.last()),
            "has_more": most < rest.len(), "data": page,
        }))
    }
}

/// The items' own ids; one that has none, or that of another, is called by its place.
fn ids(items: &[Value], response: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    let id = |(at, item): (usize, &Value)| match item["id"].as_str() {
        Some(id) if seen.insert(id.to_owned()) => id.to_owned(),
        _ => format!("item_{at}_{response}"),
    };
    items.iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<PageOf, ApiError> {
        PageOf::read(&format!("/v1/responses/r/input_items?{query}").parse().unwrap())
    }

    #[test]
    fn a_query_that_makes_no_sense_is_the_callers_mistake() {
        assert_eq!(
            page("limit=7&order=asc&after=a%3Ab&include=x").unwrap(),
            PageOf { order: Order::Asc, limit: 7, after: Some("a:b".to_owned()) }
        );
        for (query, param) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("order=up", "order"),
        ] {
            let error = page(query).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{query}: {error:?}");
        }
    }

    /// Whoever asks for one page after the other sees each item once, whatever ids a client has given them.
    #[test]
    fn pages_put_together_are_the_list() {
        let items: Vec<Value> = ["a", "b", "a", "", "c"]
            .iter()
            .map(|id| json!({ "id": id, "n": 0 }))
            .chain([json!({ "n": 1 })])
            .collect();
        for order in ["asc", "desc"] {
            for limit in 1..=7 {
                let (mut ids, mut after) = (Vec::new(), String::new());
                loop {
                    let page = page(&format!("order={order}&limit={limit}{after}"))
                        .unwrap()
                        .of(&items, "r")
                        .unwrap();
                    let data = page["data"].as_array().unwrap();
                    assert_eq!(
                        (&page["first_id"], &page["last_id"]),
                        (&data[0]["id"], &data[data.len() - 1]["id"])
                    );
                    ids.extend(data.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
                    after = format!("&after={}", ids.last().unwrap());
                    if page["has_more"] == false {
                        break;
                    }
                    assert_eq!(data.len(), limit);
                }
                if order == "desc" {
                    ids.reverse();
                }
                assert_eq!(ids, ["a", "b", "item_2_r", "", "c", "item_5_r"], "{order}, {limit} a page");
            }
        }
    }

    #[test]
    fn nothing_is_a_page_too() {
        let none =
            json!({ "object": "list", "first_id": null, "last_id": null, "has_more": false, "data": [] });
        assert_eq!(page("").unwrap().of(&[], "r").unwrap(), none);
        let error = page("after=x").unwrap().of(&[json!({ "id": "y" })], "r").unwrap_err();
        assert_eq!(error.message, r#"after: no item here has the id "x""#);
    }
}
