//! `ds4 inspect --devices`: the GPUs of this machine.

use indicatif::BinaryBytes;
use std::io::Write;

/// Prints a line for each device, and one on what is wrong with it.
pub fn print(out: &mut dyn Write) -> anyhow::Result<()> {
    let devices = gpu::devices();
    if devices.is_empty() {
        writeln!(out, "no GPU: no driver for Vulkan, Metal or DX12 was found")?;
    }
    for device in devices {
        writeln!(out, "{}  {} ({}, {})", device.index, device.name, device.api, device.kind)?;
        let memory = device.memory.map_or("not told by its driver".into(), |m| BinaryBytes(m).to_string());
        writeln!(out, "   memory {memory}, largest buffer {}", BinaryBytes(device.largest_buffer))?;
        let (threads, usable) = device.subgroup;
        let subgroups = if usable { format!("of {threads}") } else { "not used".into() };
        writeln!(out, "   subgroups {subgroups}; driver {}", device.driver)?;
        if let Some(refused) = device.refused {
            writeln!(out, "   cannot be used: {refused}")?;
        }
    }
    Ok(())
}
