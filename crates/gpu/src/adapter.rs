//! Which devices there are, and which one to use.

use crate::kernels::Side;
use model::ops::DeviceError;
use std::fmt;

/// A device that could be used, as `ds4 inspect --devices` lists it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its place in the list: what `--device` names.
    pub index: usize,
    /// Name of the hardware.
    pub name: String,
    /// Name and version of its driver.
    pub driver: String,
    /// How we would talk to it: Vulkan, Metal or DX12.
    pub api: &'static str,
    /// What kind of hardware it is.
    pub kind: Kind,
    /// Why it cannot be used, if so.
    pub refused: Option<String>,
    /// Bytes that one buffer may hold, and that a kernel may see of one.
    pub largest_buffer: u64,
    /// Bytes of memory it has, where the driver says so.
    pub memory: Option<u64>,
    /// Threads of a subgroup, and whether kernels can use operations on them.
    pub subgroup: (u32, bool),
}

/// What kind of hardware a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the CPU's memory.
    Integrated,
    /// A part of a GPU, in a virtual machine.
    Virtual,
    /// Not a GPU: a program that stands in for one, on the CPU.
    Software,
    /// Unknown.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Discrete => "GPU with its own memory",
            Kind::Integrated => "GPU that shares the CPU's memory",
            Kind::Virtual => "virtual GPU",
            Kind::Software => "software, on the CPU",
            Kind::Other => "unknown kind",
        })
    }
}

/// Every device of this machine, the most capable kind first.
pub fn devices() -> Vec<Device> {
    adapters().iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

/// The wgpu adapters in the order of [`devices`].
pub(crate) fn adapters() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        // No validation of indirect calls: it would cap buffers at 4 GB, and we make none.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let rank = |adapter: &wgpu::Adapter| match kind(&adapter.get_info()) {
        Kind::Discrete => 0,
        Kind::Integrated => 1,
        Kind::Virtual => 2,
        Kind::Other => 3,
        Kind::Software => 4,
    };
    adapters.sort_by_key(rank);
    adapters
}

fn kind(info: &wgpu::AdapterInfo) -> Kind {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => Kind::Discrete,
        wgpu::DeviceType::IntegratedGpu => Kind::Integrated,
        wgpu::DeviceType::VirtualGpu => Kind::Virtual,
        wgpu::DeviceType::Cpu => Kind::Software,
        wgpu::DeviceType::Other => Kind::Other,
    }
}

pub(crate) fn describe(index: usize, adapter: &wgpu::Adapter) -> Device {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    Device {
        index,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        api: match info.backend {
            wgpu::Backend::Vulkan => "Vulkan",
            wgpu::Backend::Metal => "Metal",
            wgpu::Backend::Dx12 => "DX12",
            _ => "?",
        },
        kind: kind(&info),
        refused: refusal(adapter),
        largest_buffer: limits.max_buffer_size.min(limits.max_storage_buffer_binding_size),
        memory: memory(adapter),
        subgroup: (
            subgroup(adapter).unwrap_or(info.subgroup_max_size),
            adapter.features().contains(wgpu::Features::SUBGROUP) && subgroup(adapter).is_some(),
        ),
        name: info.name,
    }
}

/// The device's memory, which wgpu itself does not tell: of Vulkan the largest heap that is the device's own.
#[cfg(any(target_os = "linux", target_os = "windows"))]
fn memory(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handles are only asked for facts, while the adapter lives.
    unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        let facts = instance.get_physical_device_memory_properties(vulkan.raw_physical_device());
        let heaps = &facts.memory_heaps[..facts.memory_heap_count as usize];
        // Bit 0 of the flags: local to the device.
        heaps.iter().filter(|heap| heap.flags.as_raw() & 1 == 1).map(|heap| heap.size).max()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
fn memory(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// Whether this machine may have a GPU: quick, and without loading drivers. Drivers make device files on
/// Linux; elsewhere there is one as good as always.
pub fn hardware_may_exist() -> bool {
    !cfg!(target_os = "linux")
        || ["/dev/dri", "/dev/nvidiactl", "/dev/dxg"].iter().any(|path| std::path::Path::new(path).exists())
}

/// Whether hardware adds up four products of signed bytes in one instruction. Other devices can do it too, with many
/// instructions; they had better multiply floats.
#[cfg(any(target_os = "linux", target_os = "windows"))]
pub(crate) fn multiplies_bytes(adapter: &wgpu::Adapter) -> bool {
    // SAFETY: the handles are only asked for facts, while the adapter lives, and the list of structures to fill in
    // outlives the call.
    unsafe {
        let Some(vulkan) = adapter.as_hal::<wgpu::hal::api::Vulkan>() else { return false };
        let (instance, device) = (vulkan.shared_instance().raw_instance(), vulkan.raw_physical_device());
        if instance.get_physical_device_properties(device).api_version < ash::vk::API_VERSION_1_3 {
            return false;
        }
        let mut products = ash::vk::PhysicalDeviceShaderIntegerDotProductProperties::default();
        let mut facts = ash::vk::PhysicalDeviceProperties2::default().push_next(&mut products);
        instance.get_physical_device_properties2(device, &mut facts);
        products.integer_dot_product4x8_bit_packed_signed_accelerated == ash::vk::TRUE
    }
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
pub(crate) fn multiplies_bytes(_: &wgpu::Adapter) -> bool {
    false
}

/// What a kernel of ours binds at most, and how it is launched.
const BUFFERS: u32 = 12;
const THREADS: u32 = 256;
const WORKGROUP_MEMORY: u32 = 20 << 10;
pub(crate) const IMMEDIATES: u32 = 64;

/// Why a device cannot run our kernels.
fn refusal(adapter: &wgpu::Adapter) -> Option<String> {
    let limits = adapter.limits();
    if !adapter.features().contains(wgpu::Features::IMMEDIATES) || limits.max_immediate_size < IMMEDIATES {
        return Some(format!("it has no {IMMEDIATES} bytes of immediate data for a kernel's parameters"));
    }
    let have = limits.max_storage_buffers_per_shader_stage;
    if have < BUFFERS {
        return Some(format!("its kernels can use {have} buffers, needed {BUFFERS}"));
    }
    let have = limits.max_compute_invocations_per_workgroup;
    if have < THREADS {
        return Some(format!("its workgroups have {have} threads, needed {THREADS}"));
    }
    let have = limits.max_compute_workgroup_storage_size;
    if have < WORKGROUP_MEMORY {
        return Some(format!("its workgroups have {have} bytes of memory, needed {WORKGROUP_MEMORY}"));
    }
    None
}

/// Threads of a subgroup, where all kernels have as many.
///
/// Metal says it of a kernel only once that is compiled, and `wgpu` says 4 to 64 of every device there. Apple's own
/// have always had 32; those of others in older Macs do without.
pub(crate) fn subgroup(adapter: &wgpu::Adapter) -> Option<u32> {
    let info = adapter.get_info();
    match (info.subgroup_min_size, info.subgroup_max_size) {
        (least, most) if least == most => Some(most),
        _ if info.backend == wgpu::Backend::Metal && info.name.starts_with("Apple") => Some(32),
        _ => None,
    }
}

/// The side of the matrices that the device multiplies as `linear_matrix` wants it: f16 by f16, summed in f32.
pub(crate) fn multiplies_matrices(adapter: &wgpu::Adapter) -> Option<Side> {
    use wgpu::{CooperativeScalarType, Features};
    let needed = Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SHADER_F16 | Features::SUBGROUP;
    if !adapter.features().contains(needed) || subgroup(adapter) != Some(32) {
        return None;
    }
    let (memory, properties) =
        (adapter.limits().max_compute_workgroup_storage_size, adapter.cooperative_matrix_properties());
    let has = |side: &Side| {
        let side_by_side = [*side as u32; 3];
        memory >= side.memory()
            && properties.iter().any(|p| {
                [p.m_size, p.n_size, p.k_size] == side_by_side
                    && (p.ab_type, p.cr_type) == (CooperativeScalarType::F16, CooperativeScalarType::F32)
            })
    };
    [Side::Sixteen, Side::Eight].into_iter().find(has)
}

/// Which device to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first that is no software; see [`devices`] for the order.
    Hardware,
    /// The first of all, software if there is nothing else.
    First,
    /// The one with this index.
    Index(usize),
}

/// Finds the chosen adapter, with its index.
///
/// # Errors
///
/// If there is none, or it cannot run our kernels.
pub(crate) fn choose(choice: Choice) -> Result<(usize, wgpu::Adapter), DeviceError> {
    let adapters = adapters();
    let count = adapters.len();
    let usable = |(i, adapter): &(usize, wgpu::Adapter)| match choice {
        Choice::Index(index) => *i == index,
        Choice::First => refusal(adapter).is_none(),
        Choice::Hardware => refusal(adapter).is_none() && kind(&adapter.get_info()) != Kind::Software,
    };
    let found = adapters.into_iter().enumerate().find(usable);
    let Some((index, adapter)) = found else {
        return Err(DeviceError(match (choice, count) {
            (_, 0) => "there is no GPU: no driver for Vulkan, Metal or DX12 was found; \
                       use --backend cpu"
                .to_owned(),
            (Choice::Index(index), _) => {
                format!("there is no device {index}: `ds4 inspect --devices` lists 0 to {}", count - 1)
            }
            (Choice::Hardware, _) => "there is no GPU, only software that stands in for one; \
                                      choose it with --device, or use --backend cpu"
                .to_owned(),
            (Choice::First, _) => {
                "no device can run our kernels: `ds4 inspect --devices` says why".to_owned()
            }
        }));
    };
    match refusal(&adapter) {
        Some(why) => {
            Err(DeviceError(format!("device {index}, {}, cannot be used: {why}", adapter.get_info().name)))
        }
        None => Ok((index, adapter)),
    }
}
