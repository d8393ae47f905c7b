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

/// The frame size of each function in `.nv.info`, by the index of its symbol. A record is a format, an
/// attribute and a 16-bit number: the value itself, or the size of the value that follows.
fn frames(info: &[u8]) -> Vec<(u32, u32)> {
    const SIZED: u8 = 4;
    const FRAME_SIZE: u8 = 0x11;
    let (mut found, mut at) = (Vec::new(), 0);
    while let (Some(&[format, attribute]), Some(size)) = (info.get(at..at + 2), u16_at(info, at + 2)) {
        at += 4;
        if format != SIZED {
            continue;
        }
        if attribute == FRAME_SIZE
            && let (Some(symbol), Some(bytes)) = (u32_at(info, at), u32_at(info, at + 4))
        {
            found.push((symbol, bytes));
        }
        at += size;
    }
    found
}

/// The resources of every kernel in a cubin; `None` where `image` is no cubin.
pub fn resources(image: &[u8]) -> Option<Vec<Resources>> {
    let sections = sections(image)?;
    let named = |name: &str| sections.iter().find(|section| section.name == name);
    let frames = named(".nv.info").map(|info| frames(info.content)).unwrap_or_default();
    let symbols = sections.iter().find(|section| section.kind == SYMBOLS)?;
    let strings = sections.get(symbols.link as usize)?.content;
    let symbol = |index: u32| text(strings, u32_at(symbols.content, index as usize * 24)? as usize);
    let kernels = sections.iter().filter_map(|code| Some((code, code.name.strip_prefix(".text.")?)));
    Some(
        kernels
            .map(|(code, kernel)| Resources {
                kernel: kernel.into(),
                registers: code.info >> 24,
                static_shared: named(&format!(".nv.shared.{kernel}")).map_or(0, |shared| shared.size as u32),
                stack: frames
                    .iter()
                    .find(|&&(index, _)| symbol(index) == Some(kernel))
                    .map_or(0, |&(_, bytes)| bytes),
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
    fn frames_stand_between_other_records() {
        let info = [
            [4, 0x2f, 8, 0].as_slice(),
            &[7, 0, 0, 0, 40, 0, 0, 0],
            &[2, 0x11, 9, 9],
            &[4, 0x11, 8, 0],
            &[7, 0, 0, 0, 48, 1, 0, 0],
            &[4, 0x11, 8, 0, 1],
        ]
        .concat();
        assert_eq!(frames(&info), [(7, 304)]);
    }
}
