//! What ptxas made of each kernel, as the ELF file of a cubin says it.

use serde::Serialize;

/// The resources of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory of a block that its variables take.
    pub static_shared: u32,
    /// The stack of a thread in local memory: arrays that are indexed, and spilled registers.
    pub stack: u32,
    /// Instructions of its code that multiply on the tensor cores, as `mma.sync` does.
    pub matrix_products: usize,
}

/// A section: its name, and what of its header is used here.
struct Section<'a> {
    name: &'a str,
    kind: u32,
    info: u32,
    size: u64,
    link: u32,
    content: &'a [u8],
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    number(bytes, at).map(|b| u16::from_le_bytes(b) as usize)
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}
/// The text from `at` to the next zero.
fn text(bytes: &[u8], at: usize) -> Option<&str> {
    let rest = bytes.get(at..)?;
    std::str::from_utf8(&rest[..rest.iter().position(|&b| b == 0)?]).ok()
}

/// `SHT_NOBITS`: a section without content.
const EMPTY: u32 = 8;
const SYMBOLS: u32 = 2;

fn sections(image: &[u8]) -> Option<Vec<Section<'_>>> {
    // ELF, 64 bits, little-endian.
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (start, size, count, names) =
        (u64_at(image, 0x28)? as usize, u16_at(image, 0x3a)?, u16_at(image, 0x3c)?, u16_at(image, 0x3e)?);
    let header = |index: usize| image.get(start.checked_add(index * size)?..);
    let content = |header: &[u8]| -> Option<&[u8]> {
        if u32_at(header, 4)? == EMPTY {
            return Some(&[]);
        }
        let (from, bytes) = (u64_at(header, 0x18)? as usize, u64_at(header, 0x20)? as usize);
        image.get(from..from.checked_add(bytes)?)
    };
    let strings = content(header(names)?)?;
    let section = |index: usize| {
        let header = header(index)?;
        Some(Section {
            name: text(strings, u32_at(header, 0)? as usize)?,
            kind: u32_at(header, 4)?,
            size: u64_at(header, 0x20)?,
            link: u32_at(header, 0x28)?,
            info: u32_at(header, 0x2c)?,
            content: content(header)?,
        })
    };
    (0..count).map(section).collect()
}

/// The numbers of an attribute in `.nv.info`, with the index of the symbol that each is about. A record is a
/// format, an attribute and a 16-bit number: the value itself, or the size of the value that follows.
fn attributes(info: &[u8], wanted: u8) -> Vec<(u32, u32)> {
    const SIZED: u8 = 4;
    let (mut found, mut at) = (Vec::new(), 0);
    while let (Some(&[format, attribute]), Some(size)) = (info.get(at..at + 2), u16_at(info, at + 2)) {
        at += 4;
        if format != SIZED {
            continue;
        }
        if attribute == wanted
            && let (Some(symbol), Some(value)) = (u32_at(info, at), u32_at(info, at + 4))
        {
            found.push((symbol, value));
        }
        at += size;
    }
    found
}

/// Attributes of `.nv.info`.
const FRAME_SIZE: u8 = 0x11;
const REGISTERS: u8 = 0x2f;
/// Bytes of shared memory that the system reserves in each block.
const RESERVED: u64 = 1 << 10;

/// Bytes of an instruction from Volta on.
const INSTRUCTION: usize = 16;

/// Whether an instruction is HMMA: its lower 12 bits, from Volta to Blackwell (read off nvdisasm's listing).
fn is_hmma(instruction: &[u8]) -> bool {
    u16_at(instruction, 0).is_some_and(|bits| bits & 0xfff == 0x23c)
}

/// The resources of every kernel in a cubin; `None` where `image` is no cubin.
pub fn resources(image: &[u8]) -> Option<Vec<Resources>> {
    let sections = sections(image)?;
    let named = |name: &str| sections.iter().find(|section| section.name == name);
    let info = named(".nv.info").map_or(&[][..], |info| info.content);
    let symbols = sections.iter().find(|section| section.kind == SYMBOLS)?;
    let strings = sections.get(symbols.link as usize)?.content;
    let symbol = |index: u32| text(strings, u32_at(symbols.content, index as usize * 24)? as usize);
    // From Hopper on the section of a kernel's shared memory begins with what the system reserves.
    let reserved = if named(".nv.shared.reserved.0").is_some() { RESERVED } else { 0 };
    let shared = |kernel: &str| named(&format!(".nv.shared.{kernel}")).map_or(0, |shared| shared.size);
    let attribute = |wanted: u8, kernel: &str| {
        let mut all = attributes(info, wanted).into_iter();
        all.find(|&(index, _)| symbol(index) == Some(kernel)).map(|(_, value)| value)
    };
    let kernels = sections.iter().filter_map(|code| Some((code, code.name.strip_prefix(".text.")?)));
    Some(
        kernels
            .map(|(code, kernel)| Resources {
                kernel: kernel.into(),
                // Older files have it in the section's header.
                registers: attribute(REGISTERS, kernel).unwrap_or(code.info >> 24),
                static_shared: shared(kernel).saturating_sub(reserved) as u32,
                stack: attribute(FRAME_SIZE, kernel).unwrap_or(0),
                matrix_products: code.content.chunks_exact(INSTRUCTION).filter(|i| is_hmma(i)).count(),
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cubin_has_no_resources() {
        assert_eq!(resources(b""), None);
        assert_eq!(resources(b".version 8.0"), None);
        let mut cut = b"\x7fELF\x02\x01".to_vec();
        cut.resize(64, 0);
        // A header without sections has no names either.
        assert_eq!(resources(&cut), None);
        cut[0x28..0x30].fill(0xff);
        cut[0x3c] = 9;
        assert_eq!(resources(&cut), None);
    }

    #[test]
    fn attributes_stand_between_other_records() {
        let info = [
            [4, 0x2f, 8, 0].as_slice(),
            &[7, 0, 0, 0, 40, 0, 0, 0],
            &[2, 0x11, 9, 9],
            &[4, 0x11, 8, 0],
            &[7, 0, 0, 0, 48, 1, 0, 0],
            &[4, 0x11, 8, 0, 1],
        ]
        .concat();
        assert_eq!(attributes(&info, FRAME_SIZE), [(7, 304)]);
        assert_eq!(attributes(&info, REGISTERS), [(7, 40)]);
    }
}
