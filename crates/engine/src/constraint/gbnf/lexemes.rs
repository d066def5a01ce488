//! Which parts of a grammar become lexemes.
//!
//! The grammar engine takes the longest lexeme that is possible. Say a lexeme has just ended, the next character could
//! begin what follows it in the grammar, and it could as well make some lexeme longer: then the engine goes on with the
//! longer one, and texts that would have taken the other way are lost. If that can happen nowhere, no text is lost. So:
//!
//! 1. Everything that contains no rule that contains itself is one lexeme ([`Plan::is_lexeme`]).
//! 2. Which lexemes are possible at a place follows from the one before ([`Walk`]). Those of each place are followed at
//!    once, character by character, through all states that they can be in ([`Automaton`]). Where the above could happen,
//!    the lexemes that could become longer are taken apart: a sequence into its items, and so on, down to single
//!    characters, which never become longer. Then again from 1, until it happens nowhere.

use super::chars::{Chars, Heads};
use super::syntax::{Grammar, Node};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The most characters and classes in one lexeme, repetitions written out, and the most parts inside of each other.
const MOST_IN_ONE: usize = 4096;
const DEEPEST: usize = 150;

/// The longest patterns of all lexemes together, in bytes.
const MOST_PATTERNS: usize = 1 << 20;

/// Limits of what is looked at, in pieces that take some nanoseconds each.
const MOST_EDGES: usize = 1 << 18;
const MOST_WORK: usize = 1 << 25;

/// The most lexemes.
const MOST_LEXEMES: usize = 2000;

/// How often lexemes are taken apart.
const MOST_ROUNDS: usize = 100;

/// A grammar of lexemes.
pub(super) struct Plan {
    pub(super) grammar: Grammar,
    /// Nodes that are lexemes.
    pub(super) lexemes: Vec<usize>,
    /// The rules that are left, by number.
    pub(super) rules: BTreeMap<usize, Item>,
    /// Of each node: what it would be as a lexeme, if it can be one.
    sizes: Vec<Option<Size>>,
    /// Nodes that were taken apart.
    apart: HashSet<usize>,
    /// The lexeme of each pattern, and the nodes that it comes from.
    known: HashMap<String, usize>,
    origins: Vec<Vec<usize>>,
    /// What may still be spent.
    budget: Budget,
}

/// A part of a rule.
#[derive(Debug)]
pub(super) enum Item {
    Lexeme(usize),
    Rule(usize),
    Seq(Vec<Item>),
    Alt(Vec<Item>),
    Repeat(Box<Item>, u32, Option<u32>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Size {
    /// Characters and classes.
    chars: usize,
    depth: usize,
}

impl Plan {
    pub(super) fn new(grammar: Grammar) -> Result<Plan, String> {
        let mut plan = Plan {
            grammar,
            lexemes: Vec::new(),
            rules: BTreeMap::new(),
            sizes: Vec::new(),
            apart: HashSet::new(),
            known: HashMap::new(),
            origins: Vec::new(),
            budget: Budget(MOST_WORK),
        };
        plan.measure();
        plan.separate();
        plan.measure();
        for _ in 0..MOST_ROUNDS {
            plan.lower()?;
            if plan.lexemes.len() > MOST_LEXEMES {
                break;
            }
            let automaton = Automaton::new(&plan.grammar, &plan.lexemes)?;
            let longer =
                automaton.longer(&plan.grammar, &Places::new(&plan, &automaton), &mut plan.budget)?;
            if longer.is_empty() {
                return Ok(plan);
            }
            for lexeme in longer {
                plan.apart.extend(&plan.origins[lexeme]);
            }
        }
        Err(too_involved())
    }

    /// Finds out which nodes can be lexemes.
    fn measure(&mut self) {
        self.sizes = vec![None; self.grammar.nodes.len()];
        loop {
            let mut is_new = false;
            for node in 0..self.sizes.len() {
                if self.sizes[node].is_none() {
                    self.sizes[node] = self.size(node);
                    is_new |= self.sizes[node].is_some();
                }
            }
            if !is_new {
                return;
            }
        }
    }

    /// The size of a node, if those of its parts are known and it is not too large.
    fn size(&self, node: usize) -> Option<Size> {
        let all = |items: &[usize], times: usize| {
            let mut size = Size { chars: 0, depth: 0 };
            for &item in items {
                let part = self.sizes[item]?;
                size.chars += part.chars * times;
                size.depth = size.depth.max(part.depth);
            }
            Some(size)
        };
        let size = match &self.grammar.nodes[node] {
            Node::Chars(_) => Size { chars: 1, depth: 0 },
            Node::Seq(items) | Node::Alt(items) => all(items, 1)?,
            Node::Repeat(item, least, most) => all(&[*item], most.unwrap_or(*least.max(&1)) as usize)?,
            Node::Rule(rule) => all(&[self.grammar.rules[*rule]], 1)?,
        };
        let size = Size { depth: size.depth + 1, ..size };
        (size.chars <= MOST_IN_ONE && size.depth <= DEEPEST).then_some(size)
    }

    /// Where lexemes and other things are repeated in any order, runs of lexemes become one: `(text | element)*` is
    /// `text* (element text*)*`. Otherwise each character of such a text might have to be a lexeme of its own.
    fn separate(&mut self) {
        for node in 0..self.grammar.nodes.len() {
            let Node::Repeat(item, least @ (0 | 1), None) = self.grammar.nodes[node] else { continue };
            let Some((texts, others)) = self.mixture(item) else { continue };
            let other = self.grammar.push(Node::Alt(others));
            self.grammar.rules.push(other); // it stands in several places, and should not be written out in each
            let other = self.grammar.push(Node::Rule(self.grammar.rules.len() - 1));
            let mut push = |node| self.grammar.push(node);
            let text = push(Node::Alt(texts));
            let run = push(Node::Repeat(text, 0, None));
            let turn = push(Node::Seq(vec![other, run]));
            let turns = push(Node::Repeat(turn, 0, None));
            self.grammar.nodes[node] = if least == 0 {
                Node::Seq(vec![run, turns])
            } else {
                let first = push(Node::Repeat(text, 1, None));
                let (with, without) =
                    (push(Node::Seq(vec![first, turns])), push(Node::Repeat(turn, 1, None)));
                Node::Alt(vec![with, without])
            };
        }
    }

    /// The ways of a node that can be lexemes, and the others, if there are both. Nodes that were made since nodes were
    /// measured are among the others.
    fn mixture(&self, mut node: usize) -> Option<(Vec<usize>, Vec<usize>)> {
        while let Node::Rule(rule) = self.grammar.nodes[node] {
            let body = self.grammar.rules[rule];
            if matches!(self.grammar.nodes[body], Node::Rule(_)) {
                return None; // perhaps in a circle
            }
            node = body;
        }
        let Node::Alt(ways) = &self.grammar.nodes[node] else { return None };
        let (texts, others): (Vec<usize>, Vec<usize>) =
            ways.iter().copied().partition(|&way| self.sizes.get(way).is_some_and(Option::is_some));
        (!texts.is_empty() && !others.is_empty()).then_some((texts, others))
    }

    fn is_lexeme(&self, node: usize) -> bool {
        self.sizes[node].is_some_and(|size| size.chars > 0) && !self.apart.contains(&node)
    }

    /// Makes lexemes and rules of all that the grammar needs.
    fn lower(&mut self) -> Result<(), String> {
        (self.lexemes, self.known, self.origins) = Default::default();
        self.rules.clear();
        let mut open = vec![self.grammar.root];
        while let Some(rule) = open.pop() {
            if !self.rules.contains_key(&rule) {
                let item = self.item(self.grammar.rules[rule], &mut open)?;
                self.rules.insert(rule, item);
            }
        }
        Ok(())
    }

    fn item(&mut self, node: usize, open: &mut Vec<usize>) -> Result<Item, String> {
        if self.is_lexeme(node) {
            return self.lexeme(node).map(Item::Lexeme);
        }
        if self.sizes[node].is_some_and(|size| size.chars == 0) {
            return Ok(Item::Seq(Vec::new()));
        }
        let node = self.grammar.nodes[node].clone();
        let mut all = |items: Vec<usize>| -> Result<Vec<Item>, String> {
            items.into_iter().map(|item| self.item(item, open)).collect()
        };
        Ok(match node {
            Node::Chars(_) => unreachable!("characters are a lexeme"),
            Node::Seq(items) => Item::Seq(all(items)?),
            Node::Alt(items) => Item::Alt(all(items)?),
            Node::Repeat(_, _, Some(0)) => Item::Seq(Vec::new()),
            Node::Repeat(item, least, most) => Item::Repeat(Box::new(self.item(item, open)?), least, most),
            Node::Rule(rule) => {
                open.push(rule);
                Item::Rule(rule)
            }
        })
    }

    fn lexeme(&mut self, node: usize) -> Result<usize, String> {
        let next = self.lexemes.len();
        let pattern = self.grammar.pattern(node);
        self.budget.spend(pattern.len() / 8)?;
        let lexeme = *self.known.entry(pattern).or_insert(next);
        if lexeme == next {
            self.lexemes.push(node);
            self.origins.push(Vec::new());
            if self.known.keys().map(String::len).sum::<usize>() > MOST_PATTERNS {
                return Err(too_involved());
            }
        }
        self.origins[lexeme].push(node);
        Ok(lexeme)
    }
}

/// Pieces of work that may still be done.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, work: usize) -> Result<(), String> {
        self.0 = self.0.checked_sub(work).ok_or_else(too_involved)?;
        Ok(())
    }
}

fn too_involved() -> String {
    "it is too involved to find out where its words end".to_owned()
}

/// All lexemes at once. Its positions are the characters and classes in their patterns (Glushkov's construction).
#[derive(Default)]
struct Automaton {
    /// Of each position: its node, its lexeme, whether that may end after it, and which positions may come next.
    nodes: Vec<usize>,
    lexeme: Vec<usize>,
    is_last: Vec<bool>,
    next: Vec<Vec<u32>>,
    /// Of each lexeme: its first positions, with what it may begin, and whether it may be nothing.
    first: Vec<Vec<u32>>,
    heads: Vec<Heads>,
    is_nullable: Vec<bool>,
    edges: usize,
}

/// A part of a pattern.
#[derive(Clone)]
struct Part {
    first: Vec<u32>,
    last: Vec<u32>,
    is_nullable: bool,
}

impl Automaton {
    fn new(grammar: &Grammar, lexemes: &[usize]) -> Result<Automaton, String> {
        let mut automaton = Automaton::default();
        for (lexeme, &node) in lexemes.iter().enumerate() {
            let part = automaton.part(grammar, node)?;
            automaton.lexeme.resize(automaton.nodes.len(), lexeme);
            let mut heads = Heads::default();
            for &position in &part.first {
                heads = heads.or(automaton.chars(grammar, position).heads());
            }
            automaton.heads.push(heads);
            automaton.is_nullable.push(part.is_nullable);
            for &position in &part.last {
                automaton.is_last[position as usize] = true;
            }
            automaton.first.push(part.first);
        }
        Ok(automaton)
    }

    fn chars<'g>(&self, grammar: &'g Grammar, position: u32) -> &'g Chars {
        match &grammar.nodes[self.nodes[position as usize]] {
            Node::Chars(chars) => chars,
            _ => unreachable!("positions are characters"),
        }
    }

    fn part(&mut self, grammar: &Grammar, node: usize) -> Result<Part, String> {
        let nothing = Part { first: Vec::new(), last: Vec::new(), is_nullable: true };
        match &grammar.nodes[node] {
            Node::Chars(_) => {
                let position = self.nodes.len() as u32;
                self.nodes.push(node);
                self.is_last.push(false);
                self.next.push(Vec::new());
                Ok(Part { first: vec![position], last: vec![position], is_nullable: false })
            }
            Node::Rule(rule) => self.part(grammar, grammar.rules[*rule]),
            Node::Seq(items) => items.iter().try_fold(nothing, |before, &item| {
                let after = self.part(grammar, item)?;
                self.join(before, after)
            }),
            Node::Alt(items) => {
                let mut all = Part { is_nullable: false, ..nothing };
                for &item in items {
                    let way = self.part(grammar, item)?;
                    all.first.extend(way.first);
                    all.last.extend(way.last);
                    all.is_nullable |= way.is_nullable;
                }
                Ok(all)
            }
            Node::Repeat(item, least, most) => self.repeat(grammar, *item, *least, *most),
        }
    }

    fn link(&mut self, from: &[u32], to: &[u32]) -> Result<(), String> {
        self.edges += from.len() * to.len();
        if self.edges > MOST_EDGES {
            return Err(too_involved());
        }
        for &position in from {
            self.next[position as usize].extend(to);
        }
        Ok(())
    }

    fn join(&mut self, mut before: Part, mut after: Part) -> Result<Part, String> {
        self.link(&before.last, &after.first)?;
        if before.is_nullable {
            before.first.extend(&after.first);
        }
        if after.is_nullable {
            after.last.extend(&before.last);
        }
        let is_nullable = before.is_nullable && after.is_nullable;
        Ok(Part { first: before.first, last: after.last, is_nullable })
    }

    /// Copies in a row, of which the later ones need not be there; the last one may repeat itself.
    fn repeat(
        &mut self,
        grammar: &Grammar,
        item: usize,
        least: u32,
        most: Option<u32>,
    ) -> Result<Part, String> {
        let mut all = Part { first: Vec::new(), last: Vec::new(), is_nullable: true };
        let (mut before, mut first): (Vec<u32>, Vec<u32>) = Default::default();
        for nth in 1..=most.unwrap_or(least.max(1)) {
            let copy = self.part(grammar, item)?;
            self.link(&before, &copy.first)?;
            if nth == 1 {
                all.first.clone_from(&copy.first);
                all.is_nullable = least == 0 || copy.is_nullable;
            }
            if nth >= least || copy.is_nullable {
                all.last.extend(&copy.last);
            }
            (before, first) = (copy.last, copy.first);
        }
        if most.is_none() {
            self.link(&before, &first)?;
        }
        Ok(all)
    }

    /// The lexemes that could become longer where another may have ended and what follows it may begin.
    fn longer(
        &self,
        grammar: &Grammar,
        places: &Places,
        budget: &mut Budget,
    ) -> Result<HashSet<usize>, String> {
        let (mut longer, mut states, mut sets) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut new_sets = vec![places.start.clone()];
        while let Some(set) = new_sets.pop() {
            if !sets.insert(set.clone()) {
                continue;
            }
            let first: Vec<u32> = set.iter().flat_map(|lexeme| &self.first[lexeme]).copied().collect();
            let mut open = vec![(Heads::default(), first)];
            while let Some((ended, candidates)) = open.pop() {
                let classes = || candidates.iter().map(|&position| self.chars(grammar, position));
                budget.spend(classes().map(|chars| chars.ranges().len()).sum())?;
                for (from, to) in pieces(classes()) {
                    budget.spend(candidates.len())?;
                    let has = |position: &u32| self.chars(grammar, *position).has(from);
                    let state: Vec<u32> = candidates.iter().copied().filter(has).collect();
                    if state.is_empty() {
                        continue;
                    }
                    if ended.meets(Heads::of(from, to)) {
                        longer.extend(state.iter().map(|&position| self.lexeme[position as usize]));
                    }
                    if states.contains(&state) {
                        continue;
                    }
                    let mut after = Set::default();
                    for &position in state.iter().filter(|&&position| self.is_last[position as usize]) {
                        after.add(&places.after[self.lexeme[position as usize]]);
                    }
                    let ended = after.iter().fold(Heads::default(), |all, lexeme| all.or(self.heads[lexeme]));
                    let mut next: Vec<u32> =
                        state.iter().flat_map(|&position| &self.next[position as usize]).copied().collect();
                    next.sort_unstable();
                    next.dedup();
                    budget.spend(next.len() + after.0.len() * state.len())?;
                    states.insert(state);
                    new_sets.push(after);
                    open.push((ended, next));
                }
            }
        }
        Ok(longer)
    }
}

/// Ranges of code points, so small that each is in all of a class or in nothing of it.
fn pieces<'c>(classes: impl Iterator<Item = &'c Chars>) -> Vec<(u32, u32)> {
    let ranges = classes.flat_map(|chars| chars.ranges());
    let mut bounds: Vec<u32> = ranges.flat_map(|&(from, to)| [from, to + 1]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    bounds.windows(2).map(|pair| (pair[0], pair[1] - 1)).collect()
}

/// Some lexemes, a bit each; zeros at the end are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Set(Vec<u64>);

impl Set {
    fn one(lexeme: usize) -> Set {
        let mut words = vec![0; lexeme / 64 + 1];
        words[lexeme / 64] = 1 << (lexeme % 64);
        Set(words)
    }

    fn add(&mut self, other: &Set) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(at, &word): (usize, &u64)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

/// Which lexemes are possible where.
struct Places {
    /// At the beginning.
    start: Set,
    /// After each lexeme.
    after: Vec<Set>,
}

impl Places {
    fn new(plan: &Plan, automaton: &Automaton) -> Places {
        let lexemes = plan.lexemes.len();
        let mut walk = Walk {
            is_nullable: &automaton.is_nullable,
            rules: BTreeMap::new(),
            after_lexemes: vec![Set::default(); lexemes],
            after_rules: BTreeMap::new(),
        };
        loop {
            let mut is_new = false;
            for (&rule, item) in &plan.rules {
                let found = walk.begins(item);
                is_new |= walk.rules.get(&rule) != Some(&found);
                walk.rules.insert(rule, found);
            }
            if !is_new {
                break;
            }
        }
        loop {
            let before = walk.after_rules.clone();
            for (rule, item) in &plan.rules {
                let after = walk.after_rules.get(rule).cloned().unwrap_or_default();
                walk.walk(item, &after);
            }
            if walk.after_rules == before {
                break;
            }
        }
        let start = walk.rules[&plan.grammar.root].0.clone();
        Places { start, after: walk.after_lexemes }
    }
}

/// Collects what may follow.
struct Walk<'l> {
    is_nullable: &'l [bool],
    /// With which lexemes a rule may begin, and whether it may be nothing.
    rules: BTreeMap<usize, (Set, bool)>,
    after_lexemes: Vec<Set>,
    after_rules: BTreeMap<usize, Set>,
}

impl Walk<'_> {
    /// With which lexemes an item may begin, and whether it may be nothing.
    fn begins(&self, item: &Item) -> (Set, bool) {
        match item {
            Item::Lexeme(lexeme) => (Set::one(*lexeme), self.is_nullable[*lexeme]),
            Item::Rule(rule) => self.rules.get(rule).cloned().unwrap_or_default(),
            Item::Seq(items) => {
                let mut all = Set::default();
                for item in items {
                    let (set, is_nullable) = self.begins(item);
                    all.add(&set);
                    if !is_nullable {
                        return (all, false);
                    }
                }
                (all, true)
            }
            Item::Alt(items) => items.iter().fold(Default::default(), |(mut all, any): (Set, bool), item| {
                let (set, is_nullable) = self.begins(item);
                all.add(&set);
                (all, any || is_nullable)
            }),
            Item::Repeat(item, least, _) => {
                let (set, is_nullable) = self.begins(item);
                (set, is_nullable || *least == 0)
            }
        }
    }

    /// Takes note of what follows the lexemes and rules in an item, after which comes one of `after`. Returns what the item
    /// and that begin with.
    fn walk(&mut self, item: &Item, after: &Set) -> Set {
        match item {
            Item::Lexeme(lexeme) => self.after_lexemes[*lexeme].add(after),
            Item::Rule(rule) => self.after_rules.entry(*rule).or_default().add(after),
            Item::Seq(items) => {
                return items.iter().rfold(after.clone(), |after, item| self.walk(item, &after));
            }
            Item::Alt(items) => {
                let mut all = Set::default();
                items.iter().for_each(|item| all.add(&self.walk(item, after)));
                return all;
            }
            Item::Repeat(item, _, most) => {
                let mut after = after.clone();
                if *most != Some(1) {
                    after.add(&self.begins(item).0);
                }
                self.walk(item, &after);
            }
        }
        let (mut set, is_nullable) = self.begins(item);
        if is_nullable {
            set.add(after);
        }
        set
    }
}
