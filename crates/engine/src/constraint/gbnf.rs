//! Grammars in GBNF, the language of llama.cpp, as grammars in Lark, the language of the grammar engine.
//!
//! GBNF puts rules together from characters. The grammar engine puts them together from *lexemes*: patterns of text, of
//! which it takes the longest that is possible at each place, and never thinks again. Lexemes of one character would do,
//! but a step would take seconds; one lexeme for the whole is best, and possible unless a rule contains itself. Which
//! parts of a grammar are lexemes so that exactly its texts are accepted is found out in [`lexemes`]; how GBNF is read is
//! in [`syntax`].

mod chars;
mod lexemes;
mod syntax;

use lexemes::{Item, Plan};
use std::fmt::Write;

/// The same grammar in Lark.
///
/// # Errors
///
/// What is wrong with it, with line and column where that is known, or that it is too involved.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let plan = Plan::new(syntax::parse(text)?)?;
    let mut lark = format!("start: r{}\n", plan.grammar.root);
    for (rule, item) in &plan.rules {
        let _ = writeln!(lark, "r{rule}: {}", body(item));
    }
    for (nth, &node) in plan.lexemes.iter().enumerate() {
        let _ = writeln!(lark, "L{nth}: /{}/", plan.grammar.pattern(node));
    }
    Ok(lark)
}

/// The right side of a rule.
fn body(item: &Item) -> String {
    match item {
        Item::Lexeme(nth) => format!("L{nth}"),
        Item::Rule(rule) => format!("r{rule}"),
        Item::Seq(items) if items.is_empty() => "\"\"".to_owned(),
        Item::Seq(items) => items.iter().map(body).collect::<Vec<_>>().join(" "),
        Item::Alt(items) => format!("({})", items.iter().map(body).collect::<Vec<_>>().join(" | ")),
        Item::Repeat(item, least, most) => {
            let most = most.map_or(String::new(), |most| most.to_string());
            format!("({}){{{least},{most}}}", body(item))
        }
    }
}

#[cfg(test)]
mod tests;
