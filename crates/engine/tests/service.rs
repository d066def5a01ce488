//! The engine in service, on a tiny model, as short stories.

mod common;

use common::{Loaded, golden, greedy, load, session};
use cpu::Reference;
use engine::constraint::{Calls, Rules, Shape, Tool};
use engine::{
    Cancel, Engine, EngineOptions, Event, Finish, Form, Job, JobError, JobEvent, JobPrompt, Priority,
    Refusal, Request, Sampling, Ticket,
};
use model::tap::{Place, Seen};
use model::{KvFormat, Ops};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use text::ReplyOptions;

fn options() -> EngineOptions {
    EngineOptions { kv: Some(KvFormat::F32), ..EngineOptions::default() }
}

fn engine(loaded: &Loaded) -> Engine {
    Engine::start(loaded.clone(), options()).unwrap()
}

fn job(prompt: &[u32], request: Request) -> Job {
    let prompt = JobPrompt::Tokens(prompt.to_vec());
    Job { prompt, request, priority: Priority::Normal, deadline: None, affinity: None }
}

/// A request whose reply depends on its seed.
fn sampled(seed: u64, max_tokens: usize) -> Request {
    let sampling = Sampling { min_p: 0.0, temperature: 2.0, ..Sampling::default() };
    Request { sampling, seed, ..greedy(max_tokens) }
}

/// A request whose reply goes on until somebody ends it: nothing that ends a turn is said.
fn endless(loaded: &Loaded) -> Request {
    let ends = text::Marker::ALL.into_iter().filter_map(|marker| loaded.tokenizer.marker_id(marker));
    let bias = ends.map(|token| (token, -100.0)).collect();
    Request { sampling: Sampling { bias, ..Sampling::greedy() }, logprobs: Some(0), ..greedy(100_000) }
}

/// Waits until something of a kind happens.
fn until(ticket: &mut Ticket, mut wanted: impl FnMut(&JobEvent) -> bool) {
    while !wanted(&ticket.blocking_next().expect("the job goes on")) {}
}

#[test]
fn a_reply_is_the_golden_one() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, want) = golden("mini-bf16.short");
    let got = engine(&loaded).submit(job(&prompt, greedy(want.len()))).unwrap().wait().unwrap();
    assert_eq!((got.tokens, got.finish), (want, Finish::MaxTokens));
    assert_eq!(got.stats.prompt.computed, prompt.len());
}

/// Same request and seed, same text: alone, or among 16 others, whatever the size of the chunks.
#[test]
fn company_changes_nothing() {
    let loaded = load("mini-bf16.gguf");
    let (text, _) = golden("mini-bf16.mid");
    let prompt = |nth: usize| text[..20 + 23 * nth].to_vec();
    let alone: Vec<_> = (0..16)
        .map(|nth| {
            engine(&loaded).submit(job(&prompt(nth), sampled(nth as u64, 12))).unwrap().wait().unwrap()
        })
        .collect();
    for rows in [Some(7), Some(100), None] {
        let together = Engine::start(loaded.clone(), EngineOptions { rows, ..options() }).unwrap();
        let tickets: Vec<_> =
            (0..16).map(|nth| together.submit(job(&prompt(nth), sampled(nth as u64, 12))).unwrap()).collect();
        for (ticket, alone) in tickets.into_iter().zip(&alone) {
            let got = ticket.wait().unwrap();
            assert_eq!((got.tokens, got.message), (alone.tokens.clone(), alone.message.clone()), "{rows:?}");
        }
    }
}

#[test]
fn a_job_can_be_cancelled_in_every_phase() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, want) = golden("mini-bf16.mid");
    let engine =
        Engine::start(loaded.clone(), EngineOptions { sessions: 1, rows: Some(20), ..options() }).unwrap();

    let mut reading = engine.submit(job(&prompt, greedy(5))).unwrap();
    let waiting = engine.submit(job(&prompt, greedy(5))).unwrap();
    until(&mut reading, |event| matches!(event, JobEvent::Event(Event::Prefill { done: 40, .. })));
    waiting.cancel();
    reading.cancel();
    let (read, waited) = (reading.wait().unwrap(), waiting.wait().unwrap());
    assert_eq!((read.finish, read.tokens.len()), (Finish::Cancelled, 0));
    assert_eq!((waited.finish, waited.stats.prompt.computed), (Finish::Cancelled, 0));

    let mut writing = engine.submit(job(&prompt, Request { logprobs: Some(0), ..greedy(400) })).unwrap();
    until(&mut writing, |event| matches!(event, JobEvent::Event(Event::Token(_))));
    writing.cancel();
    let written = writing.wait().unwrap();
    assert_eq!(written.finish, Finish::Cancelled);
    assert_eq!(written.tokens[..], want[..written.tokens.len()]);

    drop(engine.submit(job(&prompt, greedy(400))).unwrap());
    assert_eq!(engine.submit(job(&prompt, greedy(3))).unwrap().wait().unwrap().tokens, want[..3]);
    assert_eq!(engine.status().totals.cancelled, 4);
}

/// Nobody writes for a caller who does not read; others go on, and nothing is lost.
#[test]
fn a_job_waits_for_a_caller_who_does_not_read() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.short");
    let long = Request { max_tokens: Some(700), ..endless(&loaded) };
    let engine = engine(&loaded);
    let want = engine.submit(job(&prompt, long.clone())).unwrap().wait().unwrap();
    assert_eq!(want.tokens.len(), 700);
    let ticket = engine.submit(job(&prompt, long)).unwrap();
    // A reply beside it takes some steps, in each of which a job that does not wait writes a token.
    let mut before = None;
    loop {
        engine.submit(job(&prompt, greedy(8))).unwrap().wait().unwrap();
        let written = engine.status().active.first().map(|active| active.written);
        assert!(written.is_some(), "it did not wait, and has ended");
        if written == before {
            break;
        }
        before = written;
    }
    assert_eq!(ticket.wait().unwrap().tokens, want.tokens);
}

#[test]
fn a_late_job_is_ended() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.mid");
    let engine = Engine::start(loaded.clone(), EngineOptions { sessions: 1, ..options() }).unwrap();
    let long = engine.submit(job(&prompt, endless(&loaded))).unwrap();
    let late = Job { deadline: Some(Instant::now() + Duration::from_millis(20)), ..job(&prompt, greedy(5)) };
    assert!(matches!(engine.submit(late).unwrap().wait(), Err(JobError::Deadline)));
    drop(long);

    let slow = |_: &Reference, place: Place, _: Seen<'_, Reference>| {
        if place.name == "logits" {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let engine = Engine::start_watched(loaded.clone(), options(), slow).unwrap();
    let mut late = job(&prompt[..10], endless(&loaded));
    late.deadline = Some(Instant::now() + Duration::from_secs(2));
    let got = engine.submit(late).unwrap().wait().unwrap();
    assert_eq!(got.finish, Finish::Deadline);
    assert!(!got.tokens.is_empty());
}

#[test]
fn what_cannot_be_done_is_refused_with_numbers() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.short");
    let small = EngineOptions { sessions: 1, queue: 1, context: Some(prompt.len()), ..options() };
    let engine = Engine::start(loaded, small).unwrap();
    let refuse = |prompt: &[u32], request| match engine.submit(job(prompt, request)) {
        Ok(_) => panic!("accepted"),
        Err(refusal) => refusal.to_string(),
    };
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert_eq!(
        refuse(&prompt, Request { sampling: hot, ..greedy(1) }),
        "temperature is NaN, needed 0 or more"
    );
    assert_eq!(refuse(&[], greedy(1)), "the prompt is empty");
    assert_eq!(refuse(&[512], greedy(1)), "prompt: token 512 is outside the vocabulary of 512");
    let long = prompt.repeat(2);
    let want = format!("the prompt has {} tokens, but the context ends at {}", long.len(), prompt.len());
    assert_eq!(refuse(&long, greedy(1)), want);

    let full = engine.submit(job(&prompt, greedy(5))).unwrap().wait().unwrap();
    assert_eq!(full.finish, Finish::ContextFull);
    assert_eq!(engine.status().totals.refused, 4);
}

#[test]
fn a_queue_has_an_end() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.mid");
    let engine = Engine::start(loaded.clone(), EngineOptions { sessions: 1, queue: 2, ..options() }).unwrap();
    let mut running = engine.submit(job(&prompt, endless(&loaded))).unwrap();
    until(&mut running, |event| matches!(event, JobEvent::Started { .. }));
    let _waiting = [0, 1].map(|_| engine.submit(job(&prompt, greedy(1))).unwrap());
    let refusal = engine.submit(job(&prompt, greedy(1))).err().expect("a refusal");
    assert!(matches!(refusal, Refusal::QueueFull { queued: 2, limit: 2, .. }), "{refusal}");
    assert_eq!(engine.status().queued, 2);
}

#[test]
fn who_is_important_goes_first() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.short");
    let engine = Engine::start(loaded.clone(), EngineOptions { sessions: 1, ..options() }).unwrap();
    let mut running = engine.submit(job(&prompt, endless(&loaded))).unwrap();
    until(&mut running, |event| matches!(event, JobEvent::Started { .. }));
    let order = [Priority::Background, Priority::Normal, Priority::Interactive];
    let tickets = order.map(|priority| engine.submit(Job { priority, ..job(&prompt, greedy(30)) }).unwrap());
    running.cancel();
    let queued = tickets.map(|ticket| ticket.wait().unwrap().stats.queued);
    assert!(queued[2] < queued[1] && queued[1] < queued[0], "{queued:?}");
}

#[test]
fn an_engine_that_is_shut_down_finishes_what_it_began() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, want) = golden("mini-bf16.short");
    let engine = Engine::start(loaded.clone(), EngineOptions { sessions: 1, ..options() }).unwrap();
    let mut running = engine.submit(job(&prompt, greedy(20))).unwrap();
    until(&mut running, |event| matches!(event, JobEvent::Started { .. }));
    let waiting = engine.submit(job(&prompt, greedy(20))).unwrap();
    engine.shutdown(Duration::from_secs(60));
    assert_eq!(running.wait().unwrap().tokens, want[..20]);
    assert!(matches!(waiting.wait(), Err(JobError::ShutDown)));
    assert!(matches!(engine.submit(job(&prompt, greedy(1))), Err(Refusal::ShuttingDown)));

    let engine = Engine::start(loaded.clone(), options()).unwrap();
    let mut running = engine.submit(job(&prompt, endless(&loaded))).unwrap();
    until(&mut running, |event| matches!(event, JobEvent::Started { .. }));
    engine.shutdown(Duration::from_millis(50));
    assert_eq!(running.wait().unwrap().finish, Finish::Cancelled);
}

/// Fails whenever a row of a batch has this input in the first layer: a token that the model cannot bear.
#[derive(Clone, Default)]
struct Poison(Arc<Mutex<Option<Vec<f32>>>>);

impl Poison {
    fn watch(&self, learn: bool) -> impl FnMut(&Reference, Place, Seen<'_, Reference>) + Send + use<> {
        let Poison(poison) = self.clone();
        move |ops, place, seen| {
            let (Seen::Array(rows), "attn_x", Some(0)) = (seen, place.name, place.layer) else { return };
            let rows = ops.read(rows).unwrap();
            let mut poison = poison.lock().unwrap();
            match &*poison {
                None if learn => *poison = Some(rows),
                None => {}
                Some(row) => {
                    let row = row.clone();
                    drop(poison);
                    assert!(!rows.chunks(row.len()).any(|other| other == row), "poisoned");
                }
            }
        }
    }
}

/// A batch that fails is repeated without the job that made it fail; the others say what they would have.
#[test]
fn a_panic_ends_one_job_only() {
    let loaded = load("mini-bf16.gguf");
    let (text, _) = golden("mini-bf16.mid");
    let poison = Poison::default();
    let teacher = Engine::start_watched(loaded.clone(), options(), poison.watch(true)).unwrap();
    let bad = (3..500).find(|token| !text.contains(token)).expect("a token that no prompt has");
    teacher.submit(job(&[bad], greedy(0))).unwrap().wait().unwrap();
    drop(teacher);

    let prompt = |nth: usize| text[nth..300 + nth].to_vec();
    let no_bad =
        || Request { sampling: Sampling { bias: vec![(bad, -100.0)], ..Sampling::greedy() }, ..greedy(30) };
    let want: Vec<_> = (0..4)
        .map(|nth| engine(&loaded).submit(job(&prompt(nth), no_bad())).unwrap().wait().unwrap().tokens)
        .collect();
    let options = EngineOptions { rows: Some(90), ..options() };
    let engine = Engine::start_watched(loaded, options, poison.watch(false)).unwrap();
    let tickets: Vec<_> = (0..4).map(|nth| engine.submit(job(&prompt(nth), no_bad())).unwrap()).collect();
    let poisoned = [&text[..200], &[bad], &text[..50]].concat();
    let culprit = engine.submit(job(&poisoned, no_bad())).unwrap();
    match culprit.wait() {
        Err(JobError::Internal(words)) => assert!(words.contains("poisoned"), "{words}"),
        other => panic!("{other:?}"),
    }
    for (ticket, want) in tickets.into_iter().zip(want) {
        assert_eq!(ticket.wait().unwrap().tokens, want);
    }
    let totals = engine.status().totals;
    assert_eq!((totals.failed, totals.finished), (1, 4));
    assert!(totals.failed_steps >= 2, "together, then alone");
}

/// A text that is scored is read in batches, and its probabilities are those of one token after another.
#[test]
fn a_given_text_is_scored_in_batches() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.short");
    let (first, rest) = prompt.split_at(3);
    let request = Request { forced: rest.to_vec(), logprobs: Some(2), ..greedy(rest.len() + 4) };
    let mut want = Vec::new();
    let mut alone = session(&loaded);
    let said = alone
        .reply(first, request.clone(), &Cancel::new(), &mut |event| {
            if let Event::Token(logprob) = event {
                want.push(logprob);
            }
        })
        .unwrap();
    let engine = Engine::start(loaded, EngineOptions { rows: Some(7), ..options() }).unwrap();
    for _ in 0..2 {
        let mut ticket = engine.submit(job(first, request.clone())).unwrap();
        let (mut got, mut reply) = (Vec::new(), None);
        while let Some(event) = ticket.blocking_next() {
            match event {
                JobEvent::Event(Event::Token(logprob)) => got.push(logprob),
                JobEvent::Done(done) => reply = Some(done),
                _ => {}
            }
        }
        let reply = reply.expect("a reply");
        assert_eq!(got, want);
        assert_eq!(reply.tokens, said.tokens);
        assert!(reply.stats.steps < rest.len() / 4 + 6, "{} steps for {}", reply.stats.steps, rest.len());
    }
}

/// Somebody who measures wants so many tokens, whatever the model has to say.
#[test]
fn a_reply_does_not_end_before_its_least_length() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.mid");
    let eos = loaded.tokenizer.marker_id(text::Marker::Eos).unwrap();
    let ends = Sampling { bias: vec![(eos, 100.0)], ..Sampling::greedy() };
    let engine = engine(&loaded);
    let written = |min_tokens| {
        let request = Request { sampling: ends.clone(), min_tokens, ..greedy(20) };
        let reply = engine.submit(job(&prompt, request)).unwrap().wait().unwrap();
        (reply.tokens.len(), reply.finish)
    };
    assert_eq!(written(0), (0, Finish::Eos));
    assert_eq!(written(7), (7, Finish::Eos));
    assert_eq!(written(usize::MAX), (20, Finish::MaxTokens));
}

/// A model of chance calls a tool with text of its grammar, however it samples, alone and beside others.
#[test]
fn the_text_of_a_call_is_of_its_grammar() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.short");
    let engine = engine(&loaded);
    let parameters = serde_json::json!({"type": "object", "properties": {"input": {"type": "string"}}});
    let shape = Shape::grammar("root ::= [a-c]{2,4} | \"<\" root \"</\" [a-c] \">\"".into());
    let tool = Tool { name: "f".into(), parameters, strict: false, input: Some(shape) };
    let rules = Rules { tools: vec![tool], calls: Calls::Required, single_call: true, ..Rules::default() };
    let constraint = engine.constraints().build(&rules).unwrap();
    assert!(constraint.is_some());
    let tickets: Vec<_> = (0..12)
        .map(|seed| {
            let form = Form::Chat(ReplyOptions { tools_active: true, ..ReplyOptions::default() });
            let request = Request { form, constraint: constraint.clone(), ..sampled(seed, 2000) };
            engine.submit(job(&prompt, request)).unwrap()
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for ticket in tickets {
        let reply = ticket.wait().unwrap();
        assert_eq!(reply.finish, Finish::Complete);
        let arguments = &reply.message.tool_calls[0].arguments;
        let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
        let text = arguments["input"].as_str().unwrap();
        let (mut inner, mut closed) = (text, 0);
        while let Some(rest) = inner.strip_prefix('<') {
            let end = rest.len().checked_sub(4).filter(|&at| rest.is_char_boundary(at)).expect(text);
            let tag = &rest.as_bytes()[end..];
            assert!(tag.starts_with(b"</") && b"abc".contains(&tag[2]) && tag[3] == b'>', "{text}");
            (inner, closed) = (&rest[..end], closed + 1);
        }
        let is_word = inner.bytes().all(|b| b"abc".contains(&b)) && (2..=4).contains(&inner.len());
        assert!(is_word, "{text}, {closed} tags");
        seen.insert(text.to_owned());
    }
    assert!(seen.len() > 3, "{seen:?}");
}

/// Whoever watches sees since when the engine is busy, and when it was last done with something.
#[test]
fn a_step_under_way_can_be_watched() {
    let loaded = load("mini-bf16.gguf");
    let (prompt, _) = golden("mini-bf16.mid");
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let (here, is_stuck) = std::sync::mpsc::channel::<()>();
    let stuck = move |_: &Reference, place: Place, _: Seen<'_, Reference>| {
        if place.name == "logits" {
            here.send(()).unwrap();
            let _ = may_go.recv();
        }
    };
    let engine = Engine::start_watched(loaded, options(), stuck).unwrap();
    let ticket = engine.submit(job(&prompt, greedy(1))).unwrap();
    let until = |wanted: &dyn Fn(&engine::Status) -> bool| {
        let end = Instant::now() + Duration::from_secs(60);
        while !wanted(&engine.status()) {
            assert!(Instant::now() < end, "{:?}", engine.status());
            std::thread::yield_now();
        }
    };
    // The clock is not set anew while the step lasts, which may not be the first one of the prompt.
    is_stuck.recv().unwrap();
    let before = engine.status();
    assert!(before.busy_since.is_some() && !before.active.is_empty(), "{before:?}");
    std::thread::sleep(Duration::from_millis(30));
    let now = engine.status();
    assert_eq!((now.busy_since, now.last_step), (before.busy_since, before.last_step));
    drop(go);
    ticket.wait().unwrap();
    until(&|status| status.busy_since.is_none() && status.last_step > before.last_step);
    let status = engine.status();
    assert_eq!(status.reply_tokens, 1.0);
    assert_eq!(status.totals.computed_tokens, prompt.len() as u64);
}
