//! The table of instructions that work in each lane by itself, and the names that find them.
//!
//! To add one: a row in `integer`, `float` or `convert`, and a line in `tests/instructions.rs`.

mod approx;
mod convert;
mod float;
mod integer;
pub mod round;

use crate::lanes::Entry;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Rounds to an integer value (`.rni` and its like).
pub const INTEGRAL: u32 = 512;

struct Table {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut entries = Vec::new();
        integer::table(&mut entries);
        float::table(&mut entries);
        convert::table(&mut entries);
        let names = |(at, entry): (usize, &Entry)| {
            entry.names.iter().map(|name| (name.clone(), at)).collect::<Vec<_>>()
        };
        let by_name = entries.iter().enumerate().flat_map(names).collect();
        Table { entries, by_name }
    })
}

pub fn entry(name: &str) -> Option<&'static Entry> {
    table().by_name.get(name).map(|&at| &table().entries[at])
}

/// The row of an opcode and its modifiers: the opcode itself when the table has it, else its name without
/// modifiers, with a `*` in their place unless they ask for nothing but rounding to nearest.
pub fn find(opcode: &str) -> Option<(&'static Entry, u32)> {
    let mut arg = 0;
    let mut rest = Vec::new();
    for part in opcode.split('.') {
        arg |= match part {
            "rn" => round::NEAREST,
            "rz" => round::ZERO,
            "rm" => round::DOWN,
            "rp" => round::UP,
            "rna" => round::AWAY,
            "rni" => round::NEAREST | INTEGRAL,
            "rzi" => round::ZERO | INTEGRAL,
            "rmi" => round::DOWN | INTEGRAL,
            "rpi" => round::UP | INTEGRAL,
            "ftz" => round::FTZ,
            "sat" => round::SAT,
            "satfinite" => round::SATFINITE,
            "relu" => round::RELU,
            "NaN" => round::NAN,
            "xorsign" => round::XORSIGN_ABS,
            "noftz" => 0,
            // `abs` is an instruction and a part of `.xorsign.abs`.
            "abs" if !rest.is_empty() => 0,
            _ => {
                rest.push(part);
                0
            }
        };
    }
    if let Some(entry) = entry(opcode) {
        return Some((entry, arg));
    }
    if arg == 0 {
        return entry(&rest.join(".")).map(|entry| (entry, 0));
    }
    let modified = (1..rest.len()).rev().find_map(|at| {
        let mut name = rest.clone();
        name.insert(at, "*");
        entry(&name.join("."))
    });
    modified.map(|entry| (entry, arg))
}
