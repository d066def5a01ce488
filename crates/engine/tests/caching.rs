//! What was read before is not read again, and nobody can tell from the reply. On a tiny model, as short stories.

use cpu::Cpu;
use engine::store::{PageStore, Place, StoreOptions};
use engine::{
    CacheSource, Engine, EngineOptions, Form, Job, JobEvent, JobPrompt, LoadedModel, Miss, Priority, Reply,
    Request, Sampling, Session, SlotAction, SlotError,
};
use forge::synth::{Recipe, Synthetic};
use gguf::Gguf;
use model::tap::{self, Seen};
use model::{Codec, KvFormat, PAGE};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use text::{Marker, Prompt};

type Loaded = Arc<LoadedModel<Cpu>>;

fn load() -> Loaded {
    let mut description = Synthetic::tiny(Recipe::Q8, 7);
    description.sizes.context = 8192;
    let gguf = Gguf::from_vec(description.to_vec().unwrap()).unwrap();
    Arc::new(LoadedModel::load(Cpu::new(Some(1)), &gguf, None).unwrap())
}

fn engine(loaded: &Loaded, memory: Option<u64>) -> Engine {
    let options = EngineOptions { kv: Some(KvFormat::F16), memory, ..EngineOptions::default() };
    Engine::start(loaded.clone(), options).unwrap()
}

/// Ten tokens, or as many as asked for, whose choice depends on the seed, and no turn's end among them.
fn request(loaded: &Loaded, seed: u64, max_tokens: usize) -> Request {
    let ends = Marker::ALL.into_iter().filter_map(|marker| loaded.tokenizer.marker_id(marker));
    let bias = ends.map(|token| (token, -100.0)).collect();
    Request {
        sampling: Sampling { min_p: 0.0, temperature: 1.5, bias, ..Sampling::default() },
        seed,
        max_tokens: Some(max_tokens),
        form: Form::Plain { stop: Vec::new() },
        ..common::greedy(0)
    }
}

mod common;

fn submit(engine: &Engine, loaded: &Loaded, prompt: JobPrompt) -> engine::Ticket {
    let request = request(loaded, 5, 10);
    engine
        .submit(Job { prompt, request, priority: Priority::Normal, deadline: None, affinity: None })
        .unwrap()
}

fn ask(engine: &Engine, loaded: &Loaded, prompt: &[u32]) -> Reply {
    submit(engine, loaded, JobPrompt::Tokens(prompt.to_vec())).wait().unwrap()
}

/// What is said to a prompt by somebody who has read nothing before.
fn fresh(loaded: &Loaded, prompt: &[u32]) -> Vec<u32> {
    let mut session = Session::new(loaded.clone(), KvFormat::F16, None);
    let cancel = engine::Cancel::new();
    session.reply(prompt, request(loaded, 5, 10), &cancel, &mut |_| {}).unwrap().tokens
}

/// Some text, another one for each seed.
fn words(seed: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| (3 + (i * 31 + seed * 17 + i * i % 7 * seed) % 90) as u32 + 30).collect()
}

fn user(loaded: &Loaded) -> u32 {
    loaded.tokenizer.marker_id(Marker::User).unwrap()
}

/// A system prompt and messages, each after the marker of the user.
fn conversation(loaded: &Loaded, messages: &[&[u32]]) -> Vec<u32> {
    messages.join(&[user(loaded)][..])
}

fn check(engine: &Engine, loaded: &Loaded, prompt: &[u32], cached: usize, miss: Option<Miss>) -> Reply {
    let reply = ask(engine, loaded, prompt);
    let stats = &reply.stats;
    assert_eq!((stats.prompt.cached, stats.miss), (cached, miss), "of {} tokens", prompt.len());
    assert_eq!(stats.prompt.cached + stats.prompt.computed, prompt.len());
    assert_eq!(reply.tokens, fresh(loaded, prompt), "the same as without a cache");
    reply
}

#[test]
fn the_next_turn_reads_what_is_new() {
    let loaded = load();
    for system in [50, PAGE - 5] {
        let engine = engine(&loaded, None);
        let mut prompt = conversation(&loaded, &[&words(1, system), &words(2, 20)]);
        let first = check(&engine, &loaded, &prompt, 0, Some(Miss::New));
        prompt.extend(&first.tokens);
        prompt.push(user(&loaded));
        prompt.extend(words(3, 30));
        // The last token of a reply was said, but not read.
        let known = system + 1 + 20 + 9;
        check(&engine, &loaded, &prompt, known, Some(Miss::Beyond));
    }
}

#[test]
fn the_same_prompt_costs_one_token() {
    let loaded = load();
    let engine = engine(&loaded, None);
    for len in [40, PAGE, PAGE + 300] {
        let prompt = words(len, len);
        check(&engine, &loaded, &prompt, 0, Some(Miss::New));
        check(&engine, &loaded, &prompt, len - 1, None);
    }
}

/// However many pages a batch finishes, others can go on from each of them.
#[test]
fn a_batch_of_several_pages_leaves_the_ends_of_all() {
    let loaded = load();
    let options = EngineOptions { kv: Some(KvFormat::F16), rows: Some(4 * PAGE), ..EngineOptions::default() };
    let engine = Engine::start(loaded.clone(), options).unwrap();
    let prompt = words(1, 3 * PAGE + 200);
    check(&engine, &loaded, &prompt, 0, Some(Miss::New));
    for common in [2 * PAGE + 10, PAGE + 900] {
        let mut other = prompt[..common].to_vec();
        other.extend(words(common, 30));
        check(&engine, &loaded, &other, common / PAGE * PAGE, Some(Miss::NoCheckpoint { common }));
    }
    check(&engine, &loaded, &prompt, prompt.len() - 1, None);
}

#[test]
fn an_edited_message_is_read_from_where_it_begins() {
    let loaded = load();
    let engine = engine(&loaded, None);
    let (system, first, second) = (words(1, 700), words(2, 290), words(3, 40));
    let prompt = conversation(&loaded, &[&system, &first, &second]);
    check(&engine, &loaded, &prompt, 0, Some(Miss::New));

    let mut edited = second.clone();
    edited[0] += 1;
    let last = conversation(&loaded, &[&system, &first, &edited]);
    check(&engine, &loaded, &last, 700 + 1 + 290 + 1, Some(Miss::Differs));
    let other = conversation(&loaded, &[&system, &words(9, 100)]);
    check(&engine, &loaded, &other, 701, Some(Miss::Differs));

    let mut edited = second.clone();
    edited[30] += 1;
    let inside = conversation(&loaded, &[&system, &first, &edited]);
    let common = 992 + 30;
    check(&engine, &loaded, &inside, 992, Some(Miss::NoCheckpoint { common }));
}

#[test]
fn a_reply_says_where_its_prompt_came_from_and_why_not_more() {
    let loaded = load();
    let engine = engine(&loaded, None);
    let check = |prompt: &[u32], source, miss| {
        let reply = ask(&engine, &loaded, prompt);
        assert_eq!((reply.stats.source, reply.stats.miss), (source, miss));
        reply
    };
    let system = words(1, 60);
    let prompt = conversation(&loaded, &[&system, &words(2, 20)]);
    let reply = check(&prompt, CacheSource::Nothing, Some(Miss::New));
    check(&prompt, CacheSource::Rewind, None);
    let mut next = prompt.clone();
    go_on(&loaded, &mut next, &reply, &words(3, 30));
    check(&next, CacheSource::Memory, Some(Miss::Beyond));
    check(&conversation(&loaded, &[&system, &words(9, 20)]), CacheSource::Memory, Some(Miss::Differs));
    check(&words(5, 9), CacheSource::Nothing, Some(Miss::TooShort));
    let cache = engine.status().cache;
    assert!(cache.tail_bytes > 0 && cache.page_bytes + cache.tail_bytes == cache.bytes, "{cache:?}");
}

#[test]
fn a_bucket_is_another_source_than_a_folder() {
    let loaded = load();
    let objects: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let store = || {
        let codec = Codec::new(&loaded.model.config, KvFormat::F16, loaded.model.fingerprint);
        let place = Place::Objects(objects.clone(), "there".into());
        PageStore::open(&place, codec, StoreOptions::default()).unwrap()
    };
    let prompt = words(1, 100);
    let first = engine_over(&loaded, store(), None);
    ask(&first, &loaded, &prompt);
    first.shutdown(Duration::ZERO);
    let stats = ask(&engine_over(&loaded, store(), None), &loaded, &prompt).stats;
    assert_eq!((stats.source, stats.fetched), (CacheSource::Remote, 99));
}

/// Sixteen agents that begin at once with the same instructions: one reads them, the others wait for it.
#[test]
fn instructions_are_read_once() {
    let loaded = load();
    let engine = engine(&loaded, None);
    let system = words(1, 1100);
    let prompts: Vec<_> =
        (0..16).map(|nth| conversation(&loaded, &[&system, &words(nth + 2, 20 + nth)])).collect();
    let tickets: Vec<_> =
        prompts.iter().map(|prompt| submit(&engine, &loaded, JobPrompt::Tokens(prompt.clone()))).collect();
    let replies: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    for (reply, prompt) in replies.iter().zip(&prompts).step_by(5) {
        assert_eq!(reply.tokens, fresh(&loaded, prompt));
    }
    let computed: usize = replies.iter().map(|reply| reply.stats.prompt.computed).sum();
    let own: usize = prompts.iter().map(|prompt| prompt.len() - 1101).sum();
    assert_eq!(computed, 1101 + own);
}

/// With memory for little, much is forgotten and read again; replies are the same, and memory is kept to.
#[test]
fn short_memory_changes_no_reply() {
    let loaded = load();
    let engine = engine(&loaded, Some(7 << 20));
    let system = words(1, 1100);
    let mut evicted = 0;
    for round in 0..15 {
        let own = words(round % 3 + 2, 900 + 40 * (round % 3));
        let prompt = conversation(&loaded, &[&system, &own, &words(round, 10)]);
        let reply = ask(&engine, &loaded, &prompt);
        if round % 5 == 0 {
            assert_eq!(reply.tokens, fresh(&loaded, &prompt), "round {round}");
        }
        evicted += u32::from(reply.stats.miss == Some(Miss::Evicted));
        let cache = engine.status().cache;
        assert!(cache.bytes <= cache.limit, "{cache:?}");
    }
    assert!(engine.status().cache.evicted > 0);
    assert!(evicted > 0, "somebody is told");
}

#[test]
fn what_can_never_fit_is_refused() {
    let loaded = load();
    let limit = 2_200_000;
    let engine = engine(&loaded, Some(limit));
    let job = |len| Job {
        prompt: JobPrompt::Tokens(words(1, len)),
        request: request(&loaded, 1, 1),
        priority: Priority::Normal,
        deadline: None,
        affinity: None,
    };
    engine.submit(job(100)).unwrap().wait().unwrap();
    match engine.submit(job(8000)) {
        Err(engine::Refusal::Memory { prompt, limit: tokens, need, free }) => {
            assert!(need > free && free == limit);
            assert!(prompt == 8000 && tokens < prompt, "{tokens}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

/// The model spelled its reply with other tokens than the tokenizer would; when the text comes back, it is
/// recognised.
#[test]
fn text_in_another_spelling_is_recognised() {
    let loaded = load();
    let engine = engine(&loaded, None);
    let tokenizer = &loaded.tokenizer;
    let mut sentence = String::new();
    for nth in 0..40 {
        sentence += &format!("sentence {nth} of the story. ");
    }
    // One token a byte, where the tokenizer would merge; the vocabulary of the tiny model has merges.
    let spelled: Vec<u32> = sentence.chars().flat_map(|c| tokenizer.encode(&c.to_string())).collect();
    let usual = tokenizer.encode(&sentence);
    let tokens = [&[user(&loaded)], &spelled[..]].concat();
    ask(&engine, &loaded, &tokens);

    let mut prompt = Prompt::new();
    prompt.marker(Marker::User);
    prompt.text(&sentence);
    prompt.text("And so on.");
    let reply = submit(&engine, &loaded, JobPrompt::Rendered(prompt.clone())).wait().unwrap();
    if usual == spelled {
        panic!("the tiny vocabulary has merges");
    }
    assert!(reply.stats.prompt.cached >= spelled.len(), "{:?}", reply.stats);
    let in_tokens = [&[user(&loaded)], &usual[..]].concat();
    assert_eq!(ask(&engine, &loaded, &in_tokens).stats.miss, Some(Miss::Incompatible));
    let spelled_on = [&tokens[..], &tokenizer.encode("And so on.")].concat();
    assert_eq!(reply.tokens, fresh(&loaded, &spelled_on));
}

/// One conversation at a time, on a device so slow that only reading counts: 16 tokens in 20 ms.
fn slow_engine(loaded: &Loaded, store: Option<PageStore>) -> Engine {
    let slow = |_: &Cpu, place: tap::Place, _: Seen<'_, Cpu>| {
        if (place.name, place.layer) == ("attn_x", Some(0)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let kv = Some(KvFormat::F16);
    let options = EngineOptions { kv, sessions: 1, rows: Some(16), store, ..EngineOptions::default() };
    Engine::start_watched(loaded.clone(), options, slow).unwrap()
}

/// Keeps an engine of one place busy until it is dropped.
fn occupy(engine: &Engine, loaded: &Loaded) -> engine::Ticket {
    let request = request(loaded, 5, 4000);
    let prompt = JobPrompt::Tokens(words(7, 20));
    let job = Job { prompt, request, priority: Priority::Normal, deadline: None, affinity: None };
    let mut ticket = engine.submit(job).unwrap();
    while !matches!(ticket.blocking_next().unwrap(), JobEvent::Started { .. }) {}
    ticket
}

/// Who has little to read does not wait for who has much, and came before.
#[test]
fn a_known_prompt_overtakes_a_long_new_one() {
    let loaded = load();
    let engine = slow_engine(&loaded, None);
    let known = words(1, 150);
    ask(&engine, &loaded, &known);
    let busy = occupy(&engine, &loaded);
    let long = submit(&engine, &loaded, JobPrompt::Tokens(words(3, 6000))); // 7.5 s
    let short = submit(&engine, &loaded, JobPrompt::Tokens(known.clone()));
    drop(busy);
    let reply = short.wait().unwrap();
    assert_eq!(reply.stats.prompt.cached, known.len() - 1);
    let read = engine.status().totals.computed_tokens;
    assert!(read < 1000, "{read} tokens were read before it");
    drop(long);
}

/// Neither does who has much to read that the page store knows.
#[test]
fn a_prompt_on_disk_overtakes_a_new_one() {
    let loaded = load();
    let folder = tempfile::tempdir().unwrap();
    let known = words(1, 3 * PAGE + 100);
    let first = engine_over(&loaded, store(&loaded, folder.path()), None);
    ask(&first, &loaded, &known);
    first.shutdown(Duration::ZERO);
    drop(first);
    let engine = slow_engine(&loaded, Some(store(&loaded, folder.path())));
    ask(&engine, &loaded, &words(2, 150)); // now it is known how fast it reads
    let busy = occupy(&engine, &loaded);
    let new = submit(&engine, &loaded, JobPrompt::Tokens(words(3, 2000)));
    let old = submit(&engine, &loaded, JobPrompt::Tokens(known.clone())); // of which there is more, and on disk
    drop(busy);
    let reply = old.wait().unwrap();
    assert!(reply.stats.prompt.cached >= known.len() - 1, "{:?}", reply.stats);
    let read = engine.status().totals.computed_tokens;
    assert!(read < 1000, "{read} tokens were read before it");
    drop(new);
}

/// What a job reads whose caller does not listen is read by whoever needs it.
#[test]
fn nobody_waits_for_a_job_that_waits_for_its_caller() {
    let loaded = load();
    let kv = Some(KvFormat::F16);
    let options = EngineOptions { kv, rows: Some(2), ..EngineOptions::default() };
    let engine = Engine::start(loaded.clone(), options).unwrap();
    let prompt = words(1, 1500);
    // Two tokens a step, and an event each: it stops after about a thousand.
    let deaf = submit(&engine, &loaded, JobPrompt::Tokens(prompt.clone()));
    let job = Job {
        prompt: JobPrompt::Tokens(prompt.clone()),
        request: request(&loaded, 5, 10),
        priority: Priority::Normal,
        deadline: Some(Instant::now() + Duration::from_secs(120)), // or it would wait for ever
        affinity: None,
    };
    let mut ticket = engine.submit(job).unwrap();
    let reply = loop {
        match ticket.blocking_next().expect("an end") {
            JobEvent::Done(reply) => break reply,
            JobEvent::Failed(error) => panic!("{error}"),
            _ => {}
        }
    };
    assert!(reply.stats.prompt.computed > 400, "it has read the rest: {:?}", reply.stats);
    assert_eq!(deaf.wait().unwrap().tokens, reply.tokens);
}

fn store(loaded: &Loaded, folder: &Path) -> PageStore {
    let codec = Codec::new(&loaded.model.config, KvFormat::F16, loaded.model.fingerprint);
    let place = Place::parse(folder.to_str().unwrap()).unwrap();
    PageStore::open(&place, codec, StoreOptions::default()).unwrap()
}

fn engine_over(loaded: &Loaded, store: PageStore, memory: Option<u64>) -> Engine {
    let kv = Some(KvFormat::F16);
    let options = EngineOptions { kv, memory, store: Some(store), ..EngineOptions::default() };
    Engine::start(loaded.clone(), options).unwrap()
}

/// After a restart the next turn reads what is new, and nothing else.
#[test]
fn a_restarted_engine_goes_on_where_it_stopped() {
    let loaded = load();
    let folder = tempfile::tempdir().unwrap();
    for (nth, system) in [60, PAGE + 200].into_iter().enumerate() {
        let mut prompt = conversation(&loaded, &[&words(nth, system), &words(2, 20)]);
        let engine = engine_over(&loaded, store(&loaded, folder.path()), None);
        prompt.extend(ask(&engine, &loaded, &prompt).tokens);
        engine.shutdown(Duration::ZERO);
        drop(engine);

        let known = prompt.len() - 1;
        prompt.push(user(&loaded));
        prompt.extend(words(3, 30));
        let engine = engine_over(&loaded, store(&loaded, folder.path()), None);
        check(&engine, &loaded, &prompt, known, Some(Miss::Beyond));
    }
}

/// An engine that is killed has saved its finished pages.
#[test]
fn a_killed_engine_loses_the_unfinished_page_only() {
    let loaded = load();
    let folder = tempfile::tempdir().unwrap();
    let prompt = words(1, PAGE + 300);
    let first = store(&loaded, folder.path());
    let killed = engine_over(&loaded, first.clone(), None);
    ask(&killed, &loaded, &prompt);
    assert!(first.settle(Duration::from_secs(60)));
    let engine = engine_over(&loaded, store(&loaded, folder.path()), None);
    let reply = ask(&engine, &loaded, &prompt);
    assert_eq!(reply.stats.prompt.cached, PAGE);
    assert_eq!(reply.tokens, fresh(&loaded, &prompt));
}

/// What memory forgets is on disk, and comes back from there.
#[test]
fn what_was_evicted_comes_back_from_the_store() {
    let loaded = load();
    let folder = tempfile::tempdir().unwrap();
    let store = store(&loaded, folder.path());
    let engine = engine_over(&loaded, store.clone(), Some(4 << 20));
    let prompts: Vec<_> = (0..4).map(|nth| words(nth + 1, PAGE + 100)).collect();
    for prompt in &prompts {
        ask(&engine, &loaded, prompt);
        assert!(store.settle(Duration::from_secs(60)));
    }
    assert!(engine.status().cache.evicted > 0);
    let mut from_disk = 0;
    for prompt in &prompts {
        let reply = ask(&engine, &loaded, prompt);
        assert!(reply.stats.prompt.cached >= PAGE, "{:?}", reply.stats);
        let is_from_disk = reply.stats.source == CacheSource::Disk;
        assert_eq!(is_from_disk, reply.stats.fetched > 0, "{:?}", reply.stats);
        from_disk += usize::from(is_from_disk);
        assert!(store.settle(Duration::from_secs(60)));
    }
    assert!(from_disk > 0);
    assert_eq!(ask(&engine, &loaded, &prompts[0]).tokens, fresh(&loaded, &prompts[0]));
}

#[test]
fn a_store_of_another_kind_is_refused() {
    let loaded = load();
    let folder = tempfile::tempdir().unwrap();
    let store = Some(store(&loaded, folder.path()));
    let options = EngineOptions { kv: Some(KvFormat::F32), store, ..EngineOptions::default() };
    assert!(matches!(Engine::start(loaded, options), Err(engine::StartError::Store)));
}

/// Many conversations that share beginnings, go on, are edited and cut, at once and one after another, in memory
/// that is too small for them: each reply is what it would be without all that.
#[test]
fn nobody_can_tell_that_there_is_a_cache() {
    let loaded = load();
    let engine = engine(&loaded, Some(24 << 20));
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut conversations: Vec<Vec<u32>> = (0..3).map(|nth| words(nth, 300 + 350 * nth)).collect();
    for round in 0..8 {
        let mut prompts = Vec::new();
        for _ in 0..1 + random(3) {
            let nth = random(conversations.len());
            let mut prompt = conversations[nth].clone();
            match random(4) {
                0 => prompt.truncate(prompt.len() / 2 + 1),
                1 => {
                    let at = random(prompt.len());
                    prompt[at] = prompt[at] % 80 + 31;
                }
                _ => {
                    prompt.push(user(&loaded));
                    prompt.extend(words(round + 20, random(200) + 1));
                }
            }
            prompts.push(prompt);
        }
        let ask = |prompt: &Vec<u32>| submit(&engine, &loaded, JobPrompt::Tokens(prompt.clone()));
        let tickets: Vec<_> = prompts.iter().map(ask).collect();
        for (ticket, mut prompt) in tickets.into_iter().zip(prompts) {
            let reply = ticket.wait().unwrap();
            assert_eq!(reply.tokens, fresh(&loaded, &prompt), "round {round}");
            prompt.extend(reply.tokens);
            conversations.push(prompt);
        }
    }
    let status = engine.status();
    assert!(status.totals.cached_tokens > status.totals.prompt_tokens / 4, "{status:?}");
}

/// The same request says the same: alone, among sixteen others, restored from disk, in memory that is too small, read
/// in any chunks.
#[test]
fn however_a_prompt_is_read_the_reply_is_the_same() {
    let loaded = load();
    let folder = tempfile::tempdir().unwrap();
    let prompt = conversation(&loaded, &[&words(1, PAGE + 70), &words(2, 40)]);
    let sampled = |seed| Job {
        prompt: JobPrompt::Tokens(prompt.clone()),
        request: request(&loaded, seed, 12),
        priority: Priority::Normal,
        deadline: None,
        affinity: None,
    };
    let alone: Vec<_> = (0..3)
        .map(|seed| engine(&loaded, None).submit(sampled(seed)).unwrap().wait().unwrap().tokens)
        .collect();
    assert_ne!(alone[0], alone[1], "the seed matters");
    let mut restored = 0;
    for (rows, memory) in [(Some(13), None), (Some(512), None), (None, None), (None, Some(6 << 20))] {
        let store = Some(store(&loaded, folder.path()));
        let options =
            EngineOptions { kv: Some(KvFormat::F16), rows, memory, store, ..EngineOptions::default() };
        let engine = Engine::start(loaded.clone(), options).unwrap();
        let others: Vec<_> = (0..16)
            .map(|nth| submit(&engine, &loaded, JobPrompt::Tokens(words(nth + 3, 30 + 5 * nth))))
            .collect();
        let tickets: Vec<_> = (0..3).map(|seed| engine.submit(sampled(seed)).unwrap()).collect();
        for (ticket, alone) in tickets.into_iter().zip(&alone) {
            let reply = ticket.wait().unwrap();
            assert_eq!(reply.tokens, *alone, "rows {rows:?}, memory {memory:?}");
            restored += usize::from(reply.stats.prompt.cached >= PAGE);
        }
        others.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        engine.shutdown(Duration::from_secs(60));
    }
    assert!(restored >= 6, "those of later engines start with what is on disk: {restored}");
}

/// The next turn of a conversation.
fn go_on(loaded: &Loaded, prompt: &mut Vec<u32>, reply: &Reply, said: &[u32]) {
    prompt.extend(&reply.tokens);
    prompt.push(user(loaded));
    prompt.extend(said);
}

/// Two conversations with the same instructions, by turns: each finds all that was said in it, in a place of its own.
#[test]
fn conversations_with_the_same_instructions_keep_a_place_each() {
    let loaded = load();
    let engine = engine(&loaded, None);
    let system = words(1, 400);
    let mut prompts = [2, 3].map(|nth| conversation(&loaded, &[&system, &words(nth, 40)]));
    let mut known = [0, 401];
    for turn in 0..4 {
        for (nth, prompt) in prompts.iter_mut().enumerate() {
            let reply = ask(&engine, &loaded, prompt);
            assert_eq!(reply.stats.prompt.cached, known[nth], "conversation {nth}, turn {turn}");
            go_on(&loaded, prompt, &reply, &words(10 * turn + nth, 30));
            known[nth] = prompt.len() - 32; // all but the last token of the reply, the marker and what was said
        }
    }
    let slots = engine.status().slots;
    let used: Vec<usize> = slots.iter().map(|slot| slot.tokens).filter(|&tokens| tokens > 0).collect();
    assert_eq!(used, known, "{slots:?}");
}

/// Where memory is short, what sub-agents need is taken from what nobody has come back to for long, and not from the
/// conversation that waits for it.
#[test]
fn a_sub_agent_does_not_evict_its_parent() {
    let loaded = load();
    let engine = engine(&loaded, Some(6 << 20));
    let mut old = 0;
    while engine.status().cache.evicted == 0 {
        ask(&engine, &loaded, &words(old + 40, 900));
        old += 1;
        assert!(old < 40, "memory was never short");
    }
    let system = words(1, 300);
    let mut parent = conversation(&loaded, &[&system, &words(2, PAGE)]);
    let reply = ask(&engine, &loaded, &parent);
    let known = parent.len() + 9;
    go_on(&loaded, &mut parent, &reply, &words(3, 30));
    let before = engine.status().cache.evicted;
    let mut children = 0;
    while engine.status().cache.evicted == before {
        let child = conversation(&loaded, &[&system, &words(20 + children, 700)]);
        assert_eq!(ask(&engine, &loaded, &child).stats.prompt.cached, 301, "the instructions are shared");
        children += 1;
        assert!(children < 20, "no room had to be made");
    }
    assert_eq!(ask(&engine, &loaded, &parent).stats.prompt.cached, known);
}

/// A job under a name.
fn ask_as(engine: &Engine, loaded: &Loaded, prompt: &[u32], affinity: Option<u64>) -> Reply {
    let (prompt, request) = (JobPrompt::Tokens(prompt.to_vec()), request(loaded, 5, 10));
    let job = Job { prompt, request, priority: Priority::Normal, deadline: None, affinity };
    engine.submit(job).unwrap().wait().unwrap()
}

/// How much of a conversation is still known after twenty others with instructions of their own, which together need
/// more memory than there is. Before that it has had `turns`.
fn known_after_others(name: Option<u64>, turns: usize) -> (usize, usize) {
    let loaded = load();
    let engine = engine(&loaded, Some(6 << 20));
    let mut parent = conversation(&loaded, &[&words(1, 300), &words(2, PAGE + 200)]);
    for turn in 0..turns {
        let reply = ask_as(&engine, &loaded, &parent, name);
        go_on(&loaded, &mut parent, &reply, &words(60 + turn, 30));
    }
    for nth in 0..20 {
        let child = conversation(&loaded, &[&words(20 + nth, 250), &words(40 + nth, 300)]);
        ask_as(&engine, &loaded, &child, name);
    }
    assert!(engine.status().cache.evicted > 10, "memory was short");
    (ask_as(&engine, &loaded, &parent, name).stats.prompt.cached, parent.len() - 32)
}

/// A name protects the conversation that the others of this name work for.
#[test]
fn a_series_of_sub_agents_does_not_evict_their_parent() {
    let (cached, known) = known_after_others(Some(7), 1);
    assert_eq!(cached, known);
    let (cached, known) = known_after_others(None, 1);
    assert!(cached < known, "what nobody named was evicted, or this test shows nothing");
}

/// Without a name what was often come back to stays longer.
#[test]
fn a_conversation_with_many_turns_outlives_those_with_one() {
    let (cached, known) = known_after_others(None, 8);
    assert!(cached >= known / PAGE * PAGE, "{cached} of {known}");
}

#[test]
fn a_conversation_is_saved_and_brought_back_by_another_engine() {
    let loaded = load();
    for system in [60, PAGE + 200] {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine_over(&loaded, store(&loaded, folder.path()), None);
        let mut prompt = conversation(&loaded, &[&words(1, system), &words(2, 20)]);
        assert_eq!(engine.slot(0, SlotAction::Save), Err(SlotError::Empty(0)));
        let reply = ask(&engine, &loaded, &prompt);
        let saved = engine.slot(0, SlotAction::Save).unwrap();
        assert_eq!(saved.tokens, prompt.len() + 9);
        assert_eq!(engine.slot(0, SlotAction::Save), Ok(saved), "and once more");

        // The first engine still runs: what the second one knows was on disk before.
        let second = engine_over(&loaded, store(&loaded, folder.path()), None);
        let unknown = saved.key.child(&[1]);
        assert_eq!(second.slot(3, SlotAction::Restore(unknown)), Err(SlotError::Unknown(unknown)));
        assert!(matches!(second.slot(99, SlotAction::Restore(saved.key)), Err(SlotError::NoSuchSlot { .. })));
        assert_eq!(second.slot(3, SlotAction::Restore(saved.key)), Ok(saved));
        go_on(&loaded, &mut prompt, &reply, &words(3, 30));
        let next = check(&second, &loaded, &prompt, saved.tokens, Some(Miss::Beyond));
        assert_eq!(next.stats.fetched, 0, "it was in memory");
        assert_eq!(second.status().slots[3].tokens, prompt.len() + 9, "it goes on in its place");
    }
}

#[test]
fn what_is_erased_is_forgotten_and_others_keep_theirs() {
    let loaded = load();
    let engine = engine(&loaded, None);
    assert_eq!(engine.slot(0, SlotAction::Save), Err(SlotError::NoStore));
    let (own, other) = (words(1, 2 * PAGE + 100), [words(1, PAGE + 50), words(9, 60)].concat());
    check(&engine, &loaded, &own, 0, Some(Miss::New));
    ask(&engine, &loaded, &other);
    let pages = engine.status().cache.pages;
    let erased = engine.slot(0, SlotAction::Erase).unwrap();
    assert_eq!(erased.tokens, own.len() + 9);
    assert_eq!(engine.slot(0, SlotAction::Erase), Err(SlotError::Empty(0)));
    check(&engine, &loaded, &other, other.len() - 1, None);
    assert_eq!(engine.status().cache.pages, pages - 1, "the page that both have is still there");
    let reply = ask(&engine, &loaded, &own);
    assert_eq!(reply.stats.prompt.cached, PAGE);
    assert_eq!(reply.tokens, fresh(&loaded, &own));
    for slot in 0..2 {
        engine.slot(slot, SlotAction::Erase).unwrap();
    }
    check(&engine, &loaded, &own, 0, Some(Miss::New));
}
