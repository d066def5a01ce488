//! Grammars of llama.cpp and of chance, against what their rules say.

use super::syntax::{Grammar, Node, parse};
use super::*;
use crate::constraint::{Constraint, ConstraintError, Constraints, Rules, Shape};
use forge::synth::byte_vocab;
use proptest::prelude::*;
use std::sync::Arc;
use text::Tokenizer;

/// What follows grammars.
struct Judge {
    tokenizer: Arc<Tokenizer>,
    constraints: Constraints,
}

impl Judge {
    fn new() -> Judge {
        let tokenizer = Arc::new(Tokenizer::new(byte_vocab(512)).unwrap());
        Judge { constraints: Constraints::new(tokenizer.clone()), tokenizer }
    }

    fn build(&self, grammar: &str) -> Result<Constraint, ConstraintError> {
        let rules = Rules { content: Some(Shape::Gbnf(grammar.to_owned())), ..Rules::default() };
        self.constraints.build(&rules).map(|built| built.expect("something is constrained"))
    }

    /// How many of the text's tokens are allowed, and whether it may end after them.
    fn accepts(&self, constraint: &Constraint, text: &str) -> bool {
        let tokens = self.tokenizer.encode(text);
        let mut matcher = constraint.0.matcher.deep_clone();
        matcher.validate_tokens(&tokens).unwrap() == tokens.len()
            && matcher.consume_tokens(&tokens).is_ok()
            && matcher.is_accepting().unwrap()
    }
}

#[track_caller]
fn check(grammar: &str, yes: &[&str], no: &[&str]) {
    let judge = Judge::new();
    let constraint = judge.build(grammar).unwrap();
    for text in yes {
        assert!(judge.accepts(&constraint, text), "{text:?} is refused");
    }
    for text in no {
        assert!(!judge.accepts(&constraint, text), "{text:?} is accepted");
    }
}

/// `grammars/json.gbnf` of llama.cpp.
const JSON: &str = r##"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"##;

#[test]
fn json() {
    let nested = format!("{{\"a\": {}1{}}}", "[".repeat(60), "]".repeat(60));
    let yes = [
        "{}",
        r#"{"a": [1, -2.5e3, "x\né\"\u00e9"], "b": {"c": null}, "d": true}"#,
        "{\n  \"a\":1}\n",
        &nested,
    ];
    check(JSON, &yes, &["", "[]", "{\"a\"}", "{\"a\": 01}", "{\"a\": tru}", "{,}"]);
}

/// What can be a word as a whole is one, however many rules it is made of.
#[test]
fn words_are_as_long_as_can_be() {
    let count =
        |grammar: &str| to_lark(grammar).unwrap().lines().filter(|line| line.starts_with('L')).count();
    assert_eq!(count("root ::= a b*\na ::= [x-y]{3,}\nb ::= a | \"z\""), 1);
    assert_eq!(count(JSON), 10);
    // Text between elements.
    let xml = "root ::= \"<\" [a-z]+ \">\" (text | root)* \"</\" [a-z]+ \">\"\ntext ::= [^<]+";
    let lark = to_lark(xml).unwrap();
    assert!(lark.contains("{1,})"), "{lark}");
}

#[test]
fn other_examples_of_llama_cpp() {
    check(
        "root  ::= (expr \"=\" ws term \"\\n\")+\nexpr  ::= term ([-+*/] term)*\n\
         term  ::= ident | num | \"(\" ws expr \")\" ws\nident ::= [a-z] [a-z0-9_]* ws\n\
         num   ::= [0-9]+ ws\nws    ::= [ \\t\\n]*",
        &["a+1=2\n", "(a -12)*(b0_) = 7\n\n", "a=1\nb=2\n"],
        &["a+=1\n", "1", "(a=1\n", "A=1\n"],
    );
    check(
        "root ::= item+\nitem ::= \"- \" [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ \"\\n\"",
        &["- a\n- b-\n"],
        &["- \n", "a\n"],
    );
    check(
        "root ::= jp-char+ ([ \\t\\n] jp-char+)*\njp-char ::= [ぁ-ゟ] | [ァ-ヿ] | [一-鿿]",
        &["こん 日本"],
        &["a", "こ a"],
    );
}

#[test]
fn all_that_can_be_written() {
    check(r#"root::="a\x41\u00e9\U0001F600\t\r\n\\\"\[\]""#, &["aAé😀\t\r\n\\\"[]"], &["a"]);
    check(r#"root ::= [a\]\\\-^] [^\n-] [a-] . ()  "" "#, &["]x-\n", "^é-."], &["bxa.", "a-a.", "a\na."]);
    check(
        "# a comment\nroot ::= x{2} y{1,} (x | y){,2} x{0,1}# and another\n\nx_1 ::= x\nx ::= \"x\"\ny\n ::=\n \"y\"\n | \"z\" ",
        &["xxy", "xxyzyxxx", "xxzxy"],
        &["xx", "xy", "xxyxxxx"],
    );
    check("root ::= \"a\"? | \"b\"*", &["", "a", "bb"], &["ab", "aa"]);
}

/// Words whose end only what follows can tell.
#[test]
fn no_text_is_lost_where_a_longer_word_is_possible() {
    check("root ::= (\"a\" | \"ab\") \"bc\" root?", &["abc", "abbc", "abcabbc"], &["ab", "abbbc"]);
    check(
        "root ::= \"(\" root \")\" | id id\nid ::= [a-z]+ | \"é\"",
        &["ab", "abc", "(aé)", "(é)".replace('é', "éa").as_str()],
        &["a", "(a)"],
    );
    check(
        "root ::= \"<\" [a-z]+ \">\" (text | root)* \"</\" [a-z]+ \">\"\ntext ::= [^<]+",
        &["<a>x y<b></b>z</a>", "<a></a>"],
        &["<a>", "<a>x<</a>"],
    );
    check(
        "root ::= e\ne ::= e \"+\" e | e \"++\" | \"x\"",
        &["x", "x+x", "x++", "x+++x", "x+x++"],
        &["+", "x+"],
    );
    check("root ::= \"a\" (\"é\" \"!\")? root? \"è\"?", &["aé!a", "aè", "aaèè"], &["é", "aé"]);
}

#[test]
fn repetitions_of_texts_and_rules_inside_each_other() {
    let yes = ["", "a", "aa", "()", "a()a", "(a(aa)a)()"];
    check(r#"root ::= (("a" | "(" root ")")+)*"#, &yes, &["(", "a)", "b"]);
    check("root ::= x*\nx ::= y+\ny ::= \"a\" | \"(\" root \")\"", &yes, &["(", "a)", "b"]);
}

#[test]
fn errors_say_where() {
    let check = |grammar: &str, want: &str| assert_eq!(to_lark(grammar).unwrap_err(), want, "{grammar}");
    check("root ::= \"a\" [b\n", "line 1, column 14: this class of characters is not closed");
    check("root ::= \"é\" x", "line 1, column 14: there is no rule \"x\"");
    check("\n  root ::= (\"a\" | (b)\nb ::= \"c\"", "line 2, column 12: this parenthesis is not closed");
    check("root ::= \"a", "line 1, column 10: this string is not closed");
    check("root ::= \"\\q\"", "line 1, column 11: \\q means nothing");
    check("root ::= \"\\u12\"", "line 1, column 11: \\u with 4 digits of a character was expected");
    check("root ::= \"\\ud800\"", "line 1, column 11: \\u with 4 digits of a character was expected");
    check("root ::= \"a\"{3,2}", "line 1, column 14: the second number is smaller than the first");
    check("root ::= \"a\"{x}", "line 1, column 14: {n}, {n,} or {n,m} was expected");
    check("root ::= \"a\"{2001}", "line 1, column 14: more than 2000 repetitions");
    check("root ::= [z-a]", "line 1, column 14: the range from 'z' to 'a' is empty");
    check("root ::= []", "line 1, column 10: no character is in this class");
    check("root ::= \"a\" )", "line 1, column 14: ')' does not belong here");
    check("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule \"root\" is there already");
    check("root ::= <think>", "line 1, column 10: tokens cannot be named in a grammar here, only text");
    check("a ::= \"a\"", "there is no rule \"root\", with which a grammar begins");
    check("root \"a\"", "line 1, column 6: \"::=\" was expected");
    check("* ::= \"a\"", "line 1, column 1: the name of a rule was expected");
}

#[test]
fn hostile_grammars_cost_little() {
    let doubling: String = (0..60).map(|n| format!("a{n} ::= a{} a{} | \"x\"\n", n + 1, n + 1)).collect();
    let chain: String = (0..3000).map(|n| format!("a{n} ::= a{}\n", n + 1)).collect();
    let nested = |open: &str, close: &str, n| format!("root ::= {}\"a\"{}", open.repeat(n), close.repeat(n));
    for grammar in [
        format!("root ::= a0\n{doubling}a60 ::= \"x\""),
        format!("root ::= a0\n{chain}a3000 ::= \"x\""),
        nested("(", ")*", 40),
        nested("(", ")+", 40),
        nested("(", ")?", 40),
        nested("(", "{2000})", 20),
        nested("(\"b\" | root \"c\" | ", ")+", 40),
        nested("(", ")", 10_000),
        format!("root ::= {}", "[a-z]* ".repeat(3000)),
        format!("root ::= {} | \"(\" root \")\"", "([a-z] | \"ab\"){0,2000} ".repeat(5)),
        format!("root ::= {} root?", "([ac] [a-z]{200} | [ab]) ".repeat(15)),
        "root ::= root".to_owned(),
        "root ::= a\na ::= b\nb ::= a".to_owned(),
        "root ::= (\"\" | root)*".to_owned(),
        String::new(),
    ] {
        // Refused or not: in bounded time, and without a panic.
        if let Ok(lark) = to_lark(&grammar) {
            assert!(lark.len() < 2 << 20);
        }
    }
}

/// What a grammar's rules say of a text: where each node can end that begins at each place, found by going on until
/// nothing is new.
fn oracle(grammar: &Grammar, text: &[char]) -> bool {
    let places = text.len() + 1;
    let mut ends = vec![vec![vec![false; places]; places]; grammar.nodes.len()];
    loop {
        let before = ends.clone();
        for (node, kind) in grammar.nodes.iter().enumerate() {
            for from in 0..places {
                let step = |item: usize, from: &[bool]| -> Vec<bool> {
                    let reach = |to| (0..places).any(|mid| from[mid] && before[item][mid][to]);
                    (0..places).map(reach).collect()
                };
                let mut here = vec![false; places];
                here[from] = true;
                let found = match kind {
                    Node::Chars(chars) => {
                        (0..places).map(|to| to == from + 1 && chars.has(u32::from(text[from]))).collect()
                    }
                    Node::Seq(items) => items.iter().fold(here, |from, &item| step(item, &from)),
                    Node::Alt(items) => {
                        (0..places).map(|to| items.iter().any(|&item| before[item][from][to])).collect()
                    }
                    Node::Rule(rule) => before[grammar.rules[*rule]][from].clone(),
                    Node::Repeat(item, least, most) => {
                        let mut all = if *least == 0 { here.clone() } else { vec![false; places] };
                        for nth in 1..=most.unwrap_or(least + places as u32) {
                            here = step(*item, &here);
                            if nth >= *least {
                                all.iter_mut().zip(&here).for_each(|(all, here)| *all |= here);
                            }
                        }
                        all
                    }
                };
                ends[node][from] = found;
            }
        }
        if ends == before {
            return ends[grammar.rules[grammar.root]][0][places - 1];
        }
    }
}

/// A grammar by chance.
fn grammar(seed: u64) -> String {
    let mut state = seed;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    fn ways(depth: u32, next: &mut impl FnMut(u64) -> u64) -> String {
        let ways: Vec<String> = (0..=next(3))
            .map(|_| {
                let items: Vec<String> = (0..=next(3))
                    .map(|_| {
                        let atom = match next(if depth == 0 { 8 } else { 10 }) {
                            0 => "\"a\"".to_owned(),
                            1 => "\"ab\"".to_owned(),
                            2 => "\"é\"".to_owned(),
                            3 => "[ab]".to_owned(),
                            4 => "[^a]".to_owned(),
                            5 => "x".to_owned(),
                            6 => "y".to_owned(),
                            7 => "root".to_owned(),
                            _ => format!("({})", ways(depth - 1, next)),
                        };
                        let counts = ["", "", "", "", "*", "+", "?", "{2}", "{1,2}", "{2,}"];
                        atom + counts[next(counts.len() as u64) as usize]
                    })
                    .collect();
                items.join(" ")
            })
            .collect();
        ways.join(" | ")
    }
    let [root, x, y] = [2, 1, 1].map(|depth| ways(depth, &mut next));
    format!("root ::= {root}\nx ::= {x}\ny ::= {y} | \"b\"\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Of all short texts exactly those are accepted that the rules allow.
    #[test]
    fn exactly_the_texts_of_a_grammar_are_accepted(seed: u64) {
        let text = grammar(seed);
        let judge = Judge::new();
        let read = parse(&text).unwrap();
        let texts = (0..=3).flat_map(|len| (0..4usize.pow(len)).map(move |nth| {
            (0..len).map(|at| ['a', 'b', 'é', 'è'][nth / 4usize.pow(at) % 4]).collect::<Vec<_>>()
        }));
        match judge.build(&text) {
            Ok(constraint) => for chars in texts {
                let said: String = chars.iter().collect();
                prop_assert_eq!(judge.accepts(&constraint, &said), oracle(&read, &chars), "{:?} of\n{}", said, text);
            },
            // Nothing fulfils it, short or long.
            Err(error) => for chars in texts {
                prop_assert!(!oracle(&read, &chars), "{error}:\n{text}");
            },
        }
    }
}
