//! What the host has asked for and the device has not yet been given.
//!
//! Operations are recorded as a list of commands. They go to the device when somebody wants to read, or
//! when enough have come together to keep it busy ([`Recorder::flush`]). Host data that kernels need
//! (tokens, angles, tables, addresses) is gathered in an arena, which is written ahead of the commands. So what
//! changes from token to token is in the arena, and the commands are the same again: [`crate::ahead`] lives on that.
//!
//! A step whose tokens are not known yet ([`Ops::foresee`]) is recorded in the same way, put into the device's form, and
//! kept with an arena of its own, where the words that depend on tokens are left out. From there until the tokens come
//! ([`Recorder::go_on`]) only the thread that asked for it can ask for more.

use crate::ahead::Ahead;
use crate::buffers::{Buffer, HOST_DATA, Slice};
use crate::gpu::{Inner, Uses};
use crate::kernels::{Append, Beside, Mixture, Norms, append_all};
use crate::profile;
use crate::shader::Variant;
use crate::watch::Watch;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::ThreadId;

/// A part of a buffer as a kernel uses it.
#[derive(Clone, Debug)]
pub enum Binding {
    /// Only read.
    Read(Slice),
    /// Written, perhaps read too.
    Write(Slice),
}

impl Binding {
    pub(crate) fn slice(&self) -> &Slice {
        match self {
            Binding::Read(slice) | Binding::Write(slice) => slice,
        }
    }

    fn writes(&self) -> bool {
        matches!(self, Binding::Write(_))
    }
}

/// A kernel, compiled.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) raw: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) label: String,
}

pub(crate) enum Command {
    Dispatch { pipeline: Arc<Pipeline>, group: Arc<wgpu::BindGroup>, params: Vec<u32>, groups: [u32; 3] },
    Copy { from: Slice, to: Arc<Buffer>, at: u64 },
}

impl PartialEq for Command {
    /// Whether both do the same with the same buffers.
    fn eq(&self, other: &Command) -> bool {
        match (self, other) {
            (
                Command::Dispatch { pipeline: p, group: b, params, groups },
                Command::Dispatch { pipeline, group, params: others, groups: other_groups },
            ) => {
                let same = Arc::ptr_eq(p, pipeline) && Arc::ptr_eq(b, group);
                same && params == others && groups == other_groups
            }
            (Command::Copy { from: f, to: t, at: a }, Command::Copy { from, to, at }) => {
                let place = |s: &Slice| (s.buffer.id, s.offset, s.size);
                place(f) == place(from) && t.id == to.id && a == at
            }
            _ => false,
        }
    }
}

/// Bytes of one page of the arena.
const ARENA_PAGE: u64 = 4 << 20;

/// Bind groups remembered before all are forgotten.
const MOST_BIND_GROUPS: usize = 50_000;

/// Bytes of the largest buffer that is kept to read back with.
const LARGEST_READABLE: u64 = 32 << 20;

/// Host data on its way to the device.
#[derive(Default)]
struct Arena {
    /// Buffers that exist, and what is to be written to each.
    pages: Vec<(Arc<Buffer>, Vec<u8>)>,
    /// The page in use.
    page: usize,
    /// What was put since the last flush: page, offset, length.
    put: Vec<(usize, usize, usize)>,
}

impl Arena {
    /// Hands over what was put, ahead of the commands that need it.
    fn send(&mut self, gpu: &Inner) {
        for (buffer, data) in &mut self.pages {
            if !data.is_empty() {
                data.resize(data.len().next_multiple_of(4), 0);
                gpu.queue.write_buffer(&buffer.raw, 0, data);
            }
        }
        self.clear();
    }

    /// Forgets what was put.
    fn clear(&mut self) {
        self.pages.iter_mut().for_each(|(_, data)| data.clear());
        self.page = 0;
        self.put.clear();
    }
}

/// A pipeline's address, and number, offset and size of each buffer.
type GroupKey = (usize, Vec<(u64, u64, u64)>);

/// Host data of a step that is foreseen, once its tokens are known.
struct Late {
    /// Where it is in the arena.
    page: usize,
    at: usize,
    what: OfTokens,
}

/// What is to be known of tokens: their ids, or their rows of a table, of so many words.
pub(crate) enum OfTokens {
    Ids,
    Rows(Arc<[u32]>, usize),
}

impl OfTokens {
    fn words(&self, tokens: &[u32]) -> Vec<u32> {
        match self {
            OfTokens::Ids => tokens.to_vec(),
            OfTokens::Rows(table, len) => {
                tokens.iter().flat_map(|&token| &table[token as usize * len..][..*len]).copied().collect()
            }
        }
    }
}

/// A step that is foreseen.
#[derive(Default)]
struct Foreseen {
    /// Who asked for it; nobody else can ask for anything meanwhile.
    by: Option<ThreadId>,
    /// Its commands, once all are recorded.
    encoded: Option<wgpu::CommandBuffer>,
    /// Its host data, but for what is late. While it is recorded this is the other arena.
    arena: Arena,
    late: Vec<Late>,
}

/// See the module.
#[derive(Default)]
pub struct Recorder {
    pub(crate) commands: Vec<Command>,
    /// Held back, to go in one launch.
    norms: Option<Norms>,
    appends: Vec<Append>,
    /// Held back until there is a product that it can go along with.
    pub(crate) mixture: Option<Mixture>,
    /// A product held back until there is a launch that can run at the same time.
    pub(crate) beside: Option<Beside>,
    arena: Arena,
    groups: HashMap<GroupKey, Arc<wgpu::BindGroup>>,
    ahead: Ahead,
    foreseen: Foreseen,
    /// To read back with, each of another size.
    readable: Vec<Arc<Buffer>>,
    /// How often work was handed over since the host last waited for all of it.
    pub(crate) handed: usize,
    /// Launches since the start, for tests and reports.
    pub(crate) launches: u64,
    /// How often the host waited for the device since the start, for tests.
    pub(crate) waits: u64,
    /// Steps that went on with tokens that came later, since the start, for tests.
    pub(crate) foresights: u64,
    /// While a step is rehearsed, the kernels that it asks for: nothing is launched or copied then.
    rehearsed: Option<HashMap<Variant, Uses>>,
    /// Takes note of launches, if somebody wants to know.
    pub(crate) watch: Option<Watch>,
}

impl Recorder {
    /// Asks for a kernel to be run.
    ///
    /// - `bindings`: in the order of the shader's binding numbers
    /// - `params`: the words of its `Params`
    pub(crate) fn launch(
        &mut self,
        gpu: &Inner,
        variant: Variant,
        bindings: &[Binding],
        params: &[u32],
        groups: [u32; 3],
    ) {
        self.settle(gpu);
        assert!(
            groups.iter().all(|&g| g > 0 && g <= gpu.limits.max_compute_workgroups_per_dimension),
            "{}: {groups:?} workgroups",
            variant.kernel
        );
        let (kernel, tile) = (variant.kernel, variant.tile());
        let writes = bindings.iter().map(Binding::writes).collect();
        let uses = Uses { writes, immediates: 4 * params.len() as u32 };
        if let Some(wanted) = &mut self.rehearsed {
            wanted.insert(variant, uses);
            return;
        }
        let pipeline = gpu.pipeline(variant, &uses);
        let key =
            bindings.iter().map(|b| b.slice()).map(|s| (s.buffer.id, s.offset, s.size)).collect::<Vec<_>>();
        if self.groups.len() > MOST_BIND_GROUPS {
            self.groups.clear();
        }
        let group = self
            .groups
            .entry((Arc::as_ptr(&pipeline) as usize, key))
            .or_insert_with(|| {
                let entries: Vec<_> = bindings
                    .iter()
                    .enumerate()
                    .map(|(i, binding)| wgpu::BindGroupEntry {
                        binding: i as u32,
                        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                            buffer: &binding.slice().buffer.raw,
                            offset: binding.slice().offset,
                            size: wgpu::BufferSize::new(binding.slice().size),
                        }),
                    })
                    .collect();
                Arc::new(gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: &pipeline.layout,
                    entries: &entries,
                }))
            })
            .clone();
        self.launches += 1;
        if let Some(watch) = &mut self.watch {
            watch.note((kernel, &pipeline.label, tile), bindings, groups);
        }
        self.commands.push(Command::Dispatch { pipeline, group, params: params.to_vec(), groups });
    }

    /// Asks for norms, whose results may be appended next: they are launched together, ahead of whatever is asked for
    /// after that.
    pub(crate) fn hold(&mut self, gpu: &Inner, norms: Norms) {
        self.settle(gpu);
        self.norms = Some(norms);
    }

    /// Asks for a mixture.
    pub(crate) fn hold_mixture(&mut self, gpu: &Inner, mixture: Mixture) {
        self.settle(gpu);
        self.mixture = Some(mixture);
    }

    /// Asks for rows to be appended; they are launched ahead of whatever is asked for next.
    pub(crate) fn append(&mut self, gpu: &Inner, append: Append) {
        if !append.goes_with(&self.appends) {
            self.settle(gpu);
        }
        self.appends.push(append);
    }

    pub(crate) fn settle(&mut self, gpu: &Inner) {
        if let Some(mixture) = self.mixture.take() {
            mixture.launch(gpu, self);
        }
        let held = std::mem::take(&mut self.appends);
        let norms = self.norms.take();
        let appended = norms.is_some_and(|norms| norms.launch(gpu, self, &held));
        if !held.is_empty() && !appended {
            append_all(gpu, self, &held);
        }
    }

    /// Launches the product that was held back for this moment, or that is about to be read. What it is beside was just
    /// launched, and the two have no buffer in common that either writes.
    pub(crate) fn launch_beside(&mut self, gpu: &Inner) {
        if let Some(beside) = self.beside.take() {
            beside.go(gpu, self);
        }
    }

    /// Asks for a copy between two buffers.
    pub(crate) fn copy(&mut self, gpu: &Inner, from: Slice, to: &Arc<Buffer>, at: u64) {
        self.settle(gpu);
        if self.rehearses() {
            return;
        }
        self.commands.push(Command::Copy { from, to: to.clone(), at });
    }

    /// Takes host data along, for kernels launched before the next flush.
    pub(crate) fn put(&mut self, gpu: &Inner, words: &[u32]) -> Slice {
        let bytes = bytes_of(words);
        let same = self.arena.put.iter().rev().take(16).find(|&&(page, at, len)| {
            len == bytes.len() && self.arena.pages[page].1[at..at + len] == bytes[..]
        });
        let (page, at) = match same {
            Some(&(page, at, _)) => (page, at),
            None => {
                let (page, at) = self.place(gpu, &bytes);
                self.arena.put.push((page, at, bytes.len()));
                (page, at)
            }
        };
        self.arena_slice(page, at, bytes.len())
    }

    /// The same of what depends on tokens, which may stand for others that are yet to come.
    pub(crate) fn put_of(&mut self, gpu: &Inner, what: OfTokens, tokens: &[u32]) -> Slice {
        let words = what.words(tokens);
        if !self.foresees() {
            return self.put(gpu, &words);
        }
        let bytes = bytes_of(&words);
        let (page, at) = self.place(gpu, &bytes);
        self.foreseen.late.push(Late { page, at, what });
        self.arena_slice(page, at, bytes.len())
    }

    /// Puts bytes into the arena: its page, and where in it.
    fn place(&mut self, gpu: &Inner, bytes: &[u8]) -> (usize, usize) {
        let align = u64::from(gpu.limits.min_storage_buffer_offset_alignment).max(16);
        loop {
            if self.arena.page == self.arena.pages.len() {
                let size = ARENA_PAGE.max((bytes.len() as u64).next_power_of_two());
                self.arena.pages.push((gpu.storage(HOST_DATA, size), Vec::new()));
            }
            let (buffer, data) = &mut self.arena.pages[self.arena.page];
            let at = (data.len() as u64).next_multiple_of(align);
            if at + bytes.len() as u64 <= buffer.size() {
                data.resize(at as usize, 0);
                data.extend_from_slice(bytes);
                return (self.arena.page, at as usize);
            }
            self.arena.page += 1;
        }
    }

    fn arena_slice(&self, page: usize, at: usize, len: usize) -> Slice {
        Slice { buffer: self.arena.pages[page].0.clone(), offset: at as u64, size: len as u64 }
    }

    /// From now on note is taken of the kernels that are asked for, and nothing is launched or copied.
    pub(crate) fn rehearse(&mut self, gpu: &Inner) {
        self.flush(gpu);
        self.rehearsed = Some(HashMap::new());
    }

    /// Whether nothing is launched or copied.
    pub(crate) fn rehearses(&self) -> bool {
        self.rehearsed.is_some()
    }

    /// That is over; returns the kernels.
    pub(crate) fn end_rehearsal(&mut self, gpu: &Inner) -> HashMap<Variant, Uses> {
        self.flush(gpu);
        self.arena.clear();
        self.rehearsed.take().unwrap_or_default()
    }

    /// Gives everything recorded to the device; returns what to wait for.
    pub(crate) fn flush(&mut self, gpu: &Inner) -> Option<wgpu::SubmissionIndex> {
        assert!(!self.foresees(), "a step whose tokens are not known is not handed over");
        self.launch_beside(gpu);
        self.settle(gpu);
        gpu.pool.handed_over();
        if self.commands.is_empty() {
            return None;
        }
        if let Some(watch) = &mut self.watch {
            watch.handed_over();
        }
        self.arena.send(gpu);
        let commands = std::mem::take(&mut self.commands);
        let profile = gpu.profile.as_ref().map(|profile| profile.begin(gpu, commands.len()));
        let encoded = match &profile {
            None => self.ahead.encoded(gpu, commands),
            Some(_) => encode(gpu, &commands, profile.as_ref()),
        };
        let submission = submit(gpu, encoded);
        self.handed += 1;
        if let Some(profile) = profile {
            profile.collect(gpu, submission.clone());
        }
        Some(submission)
    }

    /// Whether a step is being recorded whose tokens are not known yet.
    pub(crate) fn foresees(&self) -> bool {
        self.foreseen.by.is_some() && self.foreseen.encoded.is_none()
    }

    /// Who asked for a step whose tokens have not come yet.
    pub(crate) fn foreseer(&self) -> Option<ThreadId> {
        self.foreseen.by
    }

    /// What is recorded from here on belongs to a step whose tokens are not known yet.
    pub(crate) fn begin_foreseen(&mut self, gpu: &Inner) {
        assert!(self.foreseen.by.is_none(), "one step at a time is foreseen");
        self.flush(gpu);
        self.foreseen.by = Some(std::thread::current().id());
        std::mem::swap(&mut self.arena, &mut self.foreseen.arena);
    }

    /// That is all of it.
    pub(crate) fn end_foreseen(&mut self, gpu: &Inner) {
        self.launch_beside(gpu);
        self.settle(gpu);
        let commands = std::mem::take(&mut self.commands);
        self.foreseen.encoded = Some(encode(gpu, &commands, None));
        std::mem::swap(&mut self.arena, &mut self.foreseen.arena);
    }

    /// The tokens of the step that was foreseen: it is handed over.
    pub(crate) fn go_on(&mut self, gpu: &Inner, tokens: &[u32]) {
        if self.foreseen.encoded.is_none() {
            return;
        }
        self.flush(gpu);
        for Late { page, at, what } in self.foreseen.late.drain(..) {
            let bytes = bytes_of(&what.words(tokens));
            self.foreseen.arena.pages[page].1[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        self.foreseen.arena.send(gpu);
        if let Some(encoded) = self.foreseen.encoded.take() {
            submit(gpu, encoded);
        }
        self.handed += 1;
        self.foresights += 1;
        self.foreseen.by = None;
    }

    /// Forgets a step that was not recorded to its end.
    pub(crate) fn give_up(&mut self) {
        self.commands.clear();
        (self.norms, self.mixture, self.beside) = (None, None, None);
        self.appends.clear();
        std::mem::swap(&mut self.arena, &mut self.foreseen.arena);
        self.foreseen.arena.clear();
        self.foreseen.late.clear();
        self.foreseen.by = None;
    }

    /// Uses the time until the device is done, before the host waits for it.
    pub(crate) fn prepare(&mut self, gpu: &Inner) {
        self.handed = 0;
        self.waits += 1;
        self.ahead.prepare(gpu);
    }

    /// A buffer of at least `size` bytes to read back with, one at a time.
    pub(crate) fn readable(&mut self, gpu: &Inner, size: u64) -> Arc<Buffer> {
        let size = size.next_power_of_two().max(1024);
        if let Some(buffer) = self.readable.iter().find(|buffer| buffer.size() == size) {
            return buffer.clone();
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some("read back"),
            size,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        };
        let buffer = Buffer::new("read back", gpu.device.create_buffer(&descriptor));
        if size <= LARGEST_READABLE {
            self.readable.push(buffer.clone());
        }
        buffer
    }

    /// Forgets what was remembered of a buffer that is not used again, so that its memory can go.
    pub(crate) fn forget(&mut self, buffer: &Buffer) {
        self.groups.retain(|(_, parts), _| parts.iter().all(|&(id, ..)| id != buffer.id));
        self.ahead.forget();
    }

    /// Times that work was handed over, and how often it had been encoded ahead.
    pub(crate) fn encoded_ahead(&self) -> (u64, u64) {
        self.ahead.counts()
    }
}

/// Words as the device has them.
fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Hands commands over; where the device has a clock that somebody looks at, with the time before and after them.
fn submit(gpu: &Inner, encoded: wgpu::CommandBuffer) -> wgpu::SubmissionIndex {
    let stamp = || gpu.clock.as_ref().and_then(|clock| clock.stamp(&gpu.device));
    let (begin, end) = (stamp(), stamp());
    gpu.queue.submit(begin.into_iter().chain([encoded]).chain(end))
}

/// Puts commands into the device's own form.
pub(crate) fn encode(
    gpu: &Inner,
    commands: &[Command],
    profile: Option<&profile::Flush<'_>>,
) -> wgpu::CommandBuffer {
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
    let mut commands = commands.iter().peekable();
    while let Some(command) = commands.next() {
        match command {
            Command::Copy { from, to, at } => {
                encoder.copy_buffer_to_buffer(&from.buffer.raw, from.offset, &to.raw, *at, from.size);
            }
            dispatch => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: profile.map(|p| p.pass()),
                });
                let mut next = Some(dispatch);
                while let Some(Command::Dispatch { pipeline, group, params, groups }) = next {
                    pass.set_pipeline(&pipeline.raw);
                    pass.set_bind_group(0, Some(&**group), &[]);
                    if !params.is_empty() {
                        pass.set_immediates(0, &bytes_of(params));
                    }
                    pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
                    next = match profile {
                        Some(profile) => {
                            profile.note(&pipeline.label);
                            None
                        }
                        None => commands.next_if(|c| matches!(c, Command::Dispatch { .. })),
                    };
                }
            }
        }
    }
    if let Some(profile) = profile {
        profile.end(&mut encoder);
    }
    encoder.finish()
}
