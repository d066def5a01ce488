//! The device: opening it, compiling kernels, waiting, and what happens when it fails.

use crate::adapter::{self, Choice, Device, Kind};
use crate::buffers::{ACTIVATIONS, Buffer, Pool, Pooled, Slice};
use crate::clock::Clock;
use crate::ferry::Ferry;
use crate::heap::Heap;
use crate::kernels::{self, Side};
use crate::profile::Profile;
use crate::recorder::{Binding, Pipeline, Recorder};
use crate::shader::Variant;
use crate::trial;
use model::ops::DeviceError;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long we wait for the device before we call it dead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Where a wait is usually as long as this, it does not matter when exactly it ends.
const LONG_WAIT: Duration = Duration::from_millis(10);

/// How long to look for the end of a wait, beyond twice the usual.
const LOOKING: Duration = Duration::from_micros(200);

/// The model's operations on a GPU. Cheap to clone; all clones are one device.
#[derive(Clone)]
pub struct Gpu(pub(crate) Arc<Inner>);

/// How to open a device.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which one.
    pub device: Choice,
    /// Whether shaders check indices at run time. Off is faster; tests run with them on.
    pub checks: bool,
    /// Whether the time of each kernel is taken.
    pub profile: bool,
    /// Whether kernels may use the subgroup operations that the device has.
    pub subgroups: bool,
    /// Whether products of many rows may use the matrix units that the device has: rows then meet weights of 8 bits and
    /// below in f16, and are summed in f32. Where there are none it changes nothing.
    pub matrices: bool,
    /// Whether few rows meet weights of 8 bits and below in 8 bits, as on the CPU. `None`: where the hardware
    /// multiplies bytes, and only there it is faster. Never on Metal.
    pub bytes: Option<bool>,
    /// The most bytes that a kernel may see of one buffer, where that should be less than the device allows: for
    /// tests of what does not fit.
    pub largest_binding: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            device: Choice::Hardware,
            checks: false,
            profile: false,
            subgroups: true,
            matrices: true,
            bytes: None,
            largest_binding: None,
        }
    }
}

/// What the device can do, as far as kernels differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Threads of a team: a subgroup where there are subgroup operations.
    pub lanes: u32,
    /// Whether teams are subgroups.
    pub subgroups: bool,
    /// Whether products of matrices of f16 of this size, summed in f32, are one operation of a subgroup of 32.
    pub matrices: Option<Side>,
    /// Whether products of few rows with weights of 8 bits and below are made of bytes.
    pub bytes: bool,
    /// Whether the last workgroup of a launch to come so far can go on with what the others wrote.
    pub merges: bool,
    /// Bytes of memory that a workgroup can have.
    pub workgroup_memory: u32,
}

/// Bytes of counters of one kernel.
const COUNTERS: u64 = 16 << 10;

/// Kernels whose last workgroup goes on, each with counters of its own, since they may run at the same time.
#[derive(Clone, Copy)]
pub(crate) enum Counted {
    Streams,
    Attend,
    Route,
}

impl Counted {
    const ALL: [Counted; 3] = [Counted::Streams, Counted::Attend, Counted::Route];
}

/// What a kernel is given when it is launched.
#[derive(Clone, Debug)]
pub(crate) struct Uses {
    /// For each binding, whether it may be written.
    pub(crate) writes: Vec<bool>,
    /// Bytes of parameters.
    pub(crate) immediates: u32,
}

type Progress = Box<dyn Fn(u64) + Send>;

pub(crate) struct Inner {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: wgpu::Limits,
    pub(crate) abilities: Abilities,
    pub(crate) about: Device,
    refused_matrices: Option<String>,
    pub(crate) profile: Option<Profile>,
    /// Where the device has one.
    pub(crate) clock: Option<Clock>,
    /// Whether kernels and the host can use the same buffers without one copying for the other.
    pub(crate) shares_memory: bool,
    checks: bool,
    pub(crate) pool: Arc<Pool>,
    pub(crate) ferry: Mutex<Ferry>,
    counters: Arc<Buffer>,
    /// Of each layer.
    pub(crate) heaps: Mutex<BTreeMap<usize, Arc<Mutex<Heap>>>>,
    recorder: Mutex<Recorder>,
    /// Is told when a step that was foreseen goes on.
    pub(crate) gone_on: Condvar,
    pipelines: Mutex<HashMap<Variant, Arc<Pipeline>>>,
    /// Is told how many bytes of weights were taken over.
    progress: Mutex<Option<Progress>>,
    /// Bytes of weights on the device.
    pub(crate) weight_bytes: AtomicU64,
    /// Rows of the largest batch that memory was planned for.
    pub(crate) most_rows: AtomicUsize,
    /// Nanoseconds that a wait for the device takes, averaged.
    usual_wait: AtomicU64,
    /// The first thing that went wrong. Once set, every read fails with it.
    fault: Arc<Mutex<Option<String>>>,
}

/// A lock whose data stays sound when a thread panics: the first fault is kept apart.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens a device. Its matrix units are used only if a small product through them comes out right.
    ///
    /// # Errors
    ///
    /// If there is none as wanted, or it cannot be opened.
    pub fn open(options: Options) -> Result<Gpu, DeviceError> {
        let gpu = Gpu::open_as_told(options, None)?;
        let proof = gpu.abilities().matrices.map_or(Ok(()), |_| trial::multiply(&gpu));
        match proof {
            Ok(()) => Ok(gpu),
            Err(why) => Gpu::open_as_told(Options { matrices: false, ..options }, Some(why.0)),
        }
    }

    /// Opens a device, without asking whether its matrix units can be trusted; `refused` says why they could not.
    fn open_as_told(options: Options, refused: Option<String>) -> Result<Gpu, DeviceError> {
        let (index, adapter) = adapter::choose(options.device)?;
        let mut about = adapter::describe(index, &adapter);
        let mut limits = adapter.limits();
        if let Some(most) = options.largest_binding {
            let lower = |limit: u64| limit.min(most);
            limits.max_storage_buffer_binding_size = lower(limits.max_storage_buffer_binding_size);
            about.largest_buffer = lower(about.largest_buffer);
        }
        let have = adapter.features();
        let mut features = wgpu::Features::IMMEDIATES;
        features |= have & (wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY);
        // A GPU of its own could be written to as well, but over its bus and slowly.
        let shares_memory = matches!(about.kind, Kind::Integrated | Kind::Software)
            && have.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
        if shares_memory {
            features |= wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;
        }
        let wanted = options.matrices && options.subgroups;
        let matrices = wanted.then(|| adapter::multiplies_matrices(&adapter)).flatten();
        if matrices.is_some() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16;
        }
        // Metal orders memory inside a workgroup only.
        let merges = options.subgroups
            && about.api == "Vulkan"
            && have.contains(wgpu::Features::MEMORY_DECORATION_COHERENT);
        if merges {
            features |= wgpu::Features::MEMORY_DECORATION_COHERENT;
        }
        let clocked = features.contains(wgpu::Features::TIMESTAMP_QUERY);
        if options.profile && !clocked {
            return Err(DeviceError(format!("{} cannot take the time of kernels", about.name)));
        }
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: None,
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            experimental_features: match matrices.is_some() {
                // SAFETY: the one experimental feature that is asked for is that of `linear_matrix`, which keeps
                // to its rules: subgroups of a known size, and the same operations on all their threads.
                true => unsafe { wgpu::ExperimentalFeatures::enabled() },
                false => wgpu::ExperimentalFeatures::disabled(),
            },
            ..Default::default()
        }))
        .map_err(|error| DeviceError(format!("opening {}: {error}", about.name)))?;
        let fault = Arc::new(Mutex::new(None));
        watch(&device, &about.name, &fault);
        let usable = options.subgroups && features.contains(wgpu::Features::SUBGROUP);
        let subgroup = adapter::subgroup(&adapter).filter(|_| usable);
        let subgroups = subgroup.is_some();
        let abilities = Abilities {
            lanes: subgroup.unwrap_or(32),
            subgroups,
            matrices,
            // `naga` 30 names what a product of bytes reads after its operands, so where two products have one in
            // common Metal finds a name twice.
            bytes: subgroups
                && about.api != "Metal"
                && options.bytes.unwrap_or_else(|| adapter::multiplies_bytes(&adapter)),
            merges: merges && subgroups,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
        };
        // New buffers are zero.
        let descriptor = wgpu::BufferDescriptor {
            label: Some("counters"),
            size: Counted::ALL.len() as u64 * COUNTERS,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        };
        let counters = Buffer::new(ACTIVATIONS, device.create_buffer(&descriptor));
        let inner = Inner {
            counters,
            profile: options.profile.then(|| Profile::new(&device, &queue)),
            clock: clocked.then(|| Clock::new(&device, &queue)),
            device,
            queue,
            limits,
            abilities,
            about,
            refused_matrices: refused,
            shares_memory,
            checks: options.checks,
            pool: Arc::default(),
            ferry: Mutex::default(),
            heaps: Mutex::default(),
            recorder: Mutex::default(),
            gone_on: Condvar::new(),
            pipelines: Mutex::default(),
            progress: Mutex::default(),
            weight_bytes: Default::default(),
            most_rows: AtomicUsize::new(model::PAGE),
            usual_wait: Default::default(),
            fault,
        };
        Ok(Gpu(Arc::new(inner)))
    }

    /// What is known of the device.
    pub fn device(&self) -> &Device {
        &self.0.about
    }

    /// Why matrix units that the device offers are not used, if a product through them failed.
    pub fn refused_matrices(&self) -> Option<&str> {
        self.0.refused_matrices.as_deref()
    }

    /// What kernels can rely on.
    pub fn abilities(&self) -> Abilities {
        self.0.abilities
    }

    /// Takes note that there is memory for batches of so many rows, see [`crate::Plan::rows`]; of a page, if nobody says so.
    pub fn plan_for(&self, rows: usize) {
        self.0.most_rows.store(rows, Ordering::Relaxed);
    }

    /// Tells `progress` of every few megabytes of weights that the device has taken over.
    pub fn on_upload(&self, progress: impl Fn(u64) + Send + 'static) {
        *lock(&self.0.progress) = Some(Box::new(progress));
    }

    /// Times of kernels, if the device was opened with a profile.
    pub fn profile(&self) -> Option<&Profile> {
        self.0.profile.as_ref()
    }

    /// Bytes a second of a copy by a kernel, read and written counted: the limit of all that follows. The
    /// driver's own copies through `wgpu` can be far from it: 0.84 TB/s were seen on an H100 on which other programs
    /// copy at 3.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn copy_bandwidth(&self) -> Result<f64, DeviceError> {
        const REPEATS: u32 = 20;
        const ROW: u64 = 16 << 20;
        let rows = ((512 << 20).min(self.0.about.largest_buffer / 4) / ROW).max(1);
        let [from, to] = [0, 1].map(|_| self.0.try_storage("copy", rows * ROW));
        let [from, to] = [from?, to?].map(|buffer| Slice::all(&buffer));
        let bindings =
            |which| [Binding::Read(which), Binding::Read(from.clone()), Binding::Write(to.clone())];
        let vectors = (ROW / 16) as u32;
        let groups = [vectors / kernels::THREADS, rows as u32, 1];
        let which: Vec<u32> = (0..rows as u32).collect();
        let mut recorder = self.0.recorder();
        let mut best = 0.0f64;
        for _ in 0..4 {
            self.0.wait(&mut recorder)?;
            let start = Instant::now();
            let bindings = bindings(recorder.put(&self.0, &which));
            for _ in 0..REPEATS {
                recorder.launch(&self.0, kernels::threads("gather"), &bindings, &[vectors], groups);
            }
            self.0.wait(&mut recorder)?;
            let bytes = f64::from(REPEATS) * 2.0 * (rows * ROW) as f64;
            best = best.max(bytes / start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Does `work`, of which nothing is carried out; then kernels that it asked for are compiled. Does nothing if there
    /// are cached rows, which would not outlive it.
    pub fn compile(&self, work: &mut dyn FnMut()) {
        if self.memory()[1] > 0 {
            return;
        }
        self.0.recorder().rehearse(&self.0);
        let done = catch_unwind(AssertUnwindSafe(work));
        let wanted = self.0.recorder().end_rehearsal(&self.0);
        if let Err(panic) = done {
            resume_unwind(panic);
        }
        // By all cores: drivers take up to a second for a kernel.
        wanted.into_par_iter().for_each(|(variant, uses)| drop(self.0.pipeline(variant, &uses)));
    }

    /// Whether that is what is going on: nothing that is asked for is carried out.
    pub fn rehearses(&self) -> bool {
        self.0.recorder().rehearses()
    }

    /// Kernels compiled so far.
    pub fn kernels(&self) -> usize {
        lock(&self.0.pipelines).len()
    }

    /// Kernels launched so far.
    pub fn launches(&self) -> u64 {
        self.0.recorder().launches
    }

    /// How often the host waited for the device so far, mostly to read something.
    pub fn waits(&self) -> u64 {
        self.0.recorder().waits
    }

    /// Steps so far that were asked for before their tokens were known.
    pub fn foresights(&self) -> u64 {
        self.0.recorder().foresights
    }

    /// How often work was handed to the device so far, and how often of these it had been encoded before it was asked
    /// for.
    pub fn encoded_ahead(&self) -> (u64, u64) {
        self.0.recorder().encoded_ahead()
    }

    /// Bytes on the device: weights, cached rows, activations.
    pub fn memory(&self) -> [u64; 3] {
        let weights = self.0.weight_bytes.load(Ordering::Relaxed);
        let cached = lock(&self.0.heaps).values().map(|heap| lock(heap).bytes()).sum();
        [weights, cached, self.0.pool.total()]
    }
}

/// Keeps the first error that the device reports on its own.
fn watch(device: &wgpu::Device, name: &str, fault: &Arc<Mutex<Option<String>>>) {
    let keep = |fault: &Arc<Mutex<Option<String>>>, message: String| {
        lock(fault).get_or_insert(message);
    };
    let (errors, owner) = (fault.clone(), name.to_owned());
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        keep(
            &errors,
            match error {
                wgpu::Error::OutOfMemory { .. } => format!(
                    "{owner} has no memory left: use a smaller context, fewer sessions or a smaller model"
                ),
                other => format!("{owner}: {other}"),
            },
        );
    }));
    let (errors, owner) = (fault.clone(), name.to_owned());
    device.set_device_lost_callback(move |_, message| {
        let why = if message.is_empty() { String::new() } else { format!(": {message}") };
        keep(&errors, format!("{owner} was lost{why}; start the program again"));
    });
}

impl Inner {
    /// Whoever wants to ask for something waits here until a step that another thread has foreseen goes on: it may have
    /// moved cached rows, which the device has yet to do.
    pub(crate) fn recorder(&self) -> MutexGuard<'_, Recorder> {
        let me = std::thread::current().id();
        let mut recorder = lock(&self.recorder);
        while recorder.foreseer().is_some_and(|by| by != me) {
            recorder = self.gone_on.wait(recorder).unwrap_or_else(PoisonError::into_inner);
        }
        recorder
    }

    /// Counters of workgroups of a kernel that have come so far, zero between launches.
    pub(crate) fn counters(&self, of: Counted) -> Slice {
        Slice { buffer: self.counters.clone(), offset: of as u64 * COUNTERS, size: COUNTERS }
    }

    /// Buffers that one kernel can use.
    pub(crate) fn most_bindings(&self) -> usize {
        self.limits.max_storage_buffers_per_shader_stage as usize
    }

    /// Remembers that something went wrong; reads fail from now on. A lost device is the reason for all else.
    pub(crate) fn fail(&self, message: String) {
        // It may say so only now; whatever else comes of this is an error already.
        let _ = self.device.poll(wgpu::PollType::Poll);
        lock(&self.fault).get_or_insert(message);
    }

    /// The first fault, if there was one.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        match &*lock(&self.fault) {
            Some(message) => Err(DeviceError(message.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn uploaded(&self, bytes: u64) {
        if let Some(progress) = &*lock(&self.progress) {
            progress(bytes);
        }
    }

    /// A buffer that kernels and copies can use.
    pub(crate) fn storage(&self, label: &str, size: u64) -> Arc<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        self.buffer(label, size, usage, false)
    }

    pub(crate) fn buffer(
        &self,
        label: &str,
        size: u64,
        usage: wgpu::BufferUsages,
        mapped: bool,
    ) -> Arc<Buffer> {
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: mapped };
        Buffer::new(label, self.device.create_buffer(&descriptor))
    }

    /// Waits until a submission is done, the last one of all; `None` if nothing was recorded since that one.
    ///
    /// The system wakes a thread that sleeps tens of microseconds late, a good part of a token's time. So it sleeps for most
    /// of the time that such a wait usually takes, and looks again and again from there on, for a while.
    fn await_submission(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), wgpu::PollError> {
        let start = Instant::now();
        let wait = |timeout| {
            let submission_index = submission.clone();
            self.device.poll(wgpu::PollType::Wait { submission_index, timeout: Some(timeout) })
        };
        let usual = Duration::from_nanos(self.usual_wait.load(Ordering::Relaxed));
        let mut done = false;
        if usual < LONG_WAIT && self.about.kind != Kind::Software {
            done = match wait(usual * 3 / 4) {
                Ok(_) => true,
                Err(wgpu::PollError::Timeout) => false,
                Err(error) => return Err(error),
            };
            while !done && start.elapsed() < 2 * usual + LOOKING {
                std::hint::spin_loop();
                done = self.device.poll(wgpu::PollType::Poll)?.is_queue_empty();
            }
        }
        if !done {
            wait(PATIENCE)?;
        }
        let usual = (3 * usual + start.elapsed()) / 4;
        self.usual_wait.store(usual.as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the device has done everything recorded so far.
    pub(crate) fn wait(&self, recorder: &mut Recorder) -> Result<(), DeviceError> {
        self.check()?;
        let submission = recorder.flush(self);
        recorder.prepare(self);
        if let Err(error) = self.await_submission(submission) {
            self.fail(format!("{} cannot be waited for: {error}", self.about.name));
        }
        self.check()
    }

    /// As [`Inner::storage`], but says so if there is no room.
    pub(crate) fn try_storage(&self, label: &str, size: u64) -> Result<Arc<Buffer>, DeviceError> {
        self.tried(size, || self.storage(label, size))
    }

    /// A buffer for weights. Where CPU and GPU share memory it is mapped, so that the host writes where kernels
    /// will read: [`wgpu::Buffer::unmap`] hands it over.
    pub(crate) fn try_weights(&self, label: &str, size: u64) -> Result<Arc<Buffer>, DeviceError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::MAP_WRITE;
        match self.shares_memory {
            true => self.tried(size, || self.buffer(label, size, usage, true)),
            false => self.try_storage(label, size),
        }
    }

    pub(crate) fn tried(
        &self,
        size: u64,
        create: impl FnOnce() -> Arc<Buffer>,
    ) -> Result<Arc<Buffer>, DeviceError> {
        self.check()?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let invalid = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = create();
        let errors = [pollster::block_on(invalid.pop()), pollster::block_on(memory.pop())];
        match errors.into_iter().flatten().next() {
            Some(wgpu::Error::OutOfMemory { .. }) => Err(DeviceError(format!(
                "{} has no room for another {}: use a smaller model, or --backend cpu",
                self.about.name,
                megabytes(size)
            ))),
            Some(other) => Err(DeviceError(format!("{}: {other}", self.about.name))),
            None => Ok(buffer),
        }
    }

    /// A buffer for activations.
    pub(crate) fn pooled(&self, bytes: u64) -> Pooled {
        self.pool.take(bytes, |size| self.storage(ACTIVATIONS, size))
    }

    /// A kernel, compiled at its first use.
    pub(crate) fn pipeline(&self, variant: Variant, uses: &Uses) -> Arc<Pipeline> {
        let known = lock(&self.pipelines).get(&variant).cloned();
        known.unwrap_or_else(|| {
            let pipeline = Arc::new(self.compiled(&variant, uses));
            lock(&self.pipelines).entry(variant).or_insert(pipeline).clone()
        })
    }

    fn compiled(&self, variant: &Variant, uses: &Uses) -> Pipeline {
        let (source, label) = (variant.source(), variant.label());
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = if self.checks {
            self.device.create_shader_module(descriptor)
        } else {
            // SAFETY: our own kernels index inside their bindings for every shape that their launchers
            // pass, loops end and divisors are not zero; tests run them all with the checks on.
            unsafe {
                self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
            }
        };
        let entries: Vec<_> = uses
            .writes
            .iter()
            .enumerate()
            .map(|(i, &writes)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !writes },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&label),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: uses.immediates,
        });
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { raw, layout, label }
    }

    /// Waits for a submission and returns what `take` makes of the first `size` bytes of a readable buffer.
    pub(crate) fn mapped<T>(
        &self,
        buffer: &wgpu::Buffer,
        size: u64,
        submission: wgpu::SubmissionIndex,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, DeviceError> {
        let (send, receive) = std::sync::mpsc::channel();
        buffer.slice(..size).map_async(wgpu::MapMode::Read, move |result| {
            // Nobody listens any more only if this function has returned already.
            let _ = send.send(result);
        });
        let failed = |what: String| {
            self.fail(format!("{} {what}", self.about.name));
            self.check().expect_err("just failed")
        };
        match self.await_submission(Some(submission)) {
            Ok(()) => {}
            Err(wgpu::PollError::Timeout) => {
                return Err(failed(format!("has not answered for {} seconds", PATIENCE.as_secs())));
            }
            Err(error) => return Err(failed(format!("cannot be waited for: {error}"))),
        }
        match receive.recv_timeout(PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(format!("gave nothing to read: {error}"))),
            Err(_) => return Err(failed("gave nothing to read".to_owned())),
        }
        self.check()?;
        let taken = match buffer.slice(..size).get_mapped_range() {
            Ok(view) => take(&view),
            Err(error) => return Err(failed(format!("gave nothing to read: {error}"))),
        };
        buffer.unmap();
        Ok(taken)
    }

    /// Waits for everything recorded so far and copies bytes to the host.
    pub(crate) fn read(&self, recorder: &mut Recorder, parts: &[Slice]) -> Result<Vec<u8>, DeviceError> {
        self.read_as(recorder, parts, <[u8]>::to_vec)
    }

    /// The same, but returns what `take` makes of these bytes: a copy less where they are many.
    pub(crate) fn read_as<T>(
        &self,
        recorder: &mut Recorder,
        parts: &[Slice],
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, DeviceError> {
        self.check()?;
        let size = parts.iter().map(|part| part.size).sum::<u64>().max(4);
        let readable = recorder.readable(self, size);
        let mut at = 0;
        for part in parts {
            recorder.copy(self, part.clone(), &readable, at);
            at += part.size;
        }
        let submission = recorder.flush(self).expect("there is the copy to do");
        recorder.prepare(self);
        self.mapped(&readable.raw, at, submission, take)
    }
}

/// A size for people.
pub fn megabytes(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{:.2} MB", bytes as f64 / 1e6),
        10_000_000..10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Ops;

    /// What was asked of a device that is gone ends with an error that says so, as does all that is asked of it later.
    #[test]
    fn a_lost_device_is_an_error_and_nothing_waits_for_it() {
        let gpu = Gpu::open(Options { device: Choice::First, ..Options::default() }).unwrap();
        let x = gpu.array(vec![1.0; 64], 64).unwrap();
        let mut y = gpu.send(&[2.0; 64], 64);
        gpu.add(&mut y, &x);
        assert_eq!(gpu.read(&y).unwrap(), [3.0; 64]);
        gpu.0.device.destroy();
        gpu.add(&mut y, &x);
        let lost = |error: DeviceError| assert!(error.0.contains(" was lost"), "{error:?}");
        lost(gpu.read(&y).unwrap_err());
        lost(gpu.wait().unwrap_err());
        lost(gpu.array(vec![1.0; 64], 64).unwrap_err());
    }
}
