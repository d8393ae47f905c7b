//! Opcodes: from the words of an instruction to its draft.

use crate::ParseError;
use crate::access::{Access, Kind};
use crate::arith;
use crate::body::{Body, DraftOperand};
use crate::fault::Space;
use crate::instruction::*;
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::opcode_memory;
use crate::opcode_warp::{barrier, mma, shuffle, vote};
use crate::text::Operand;

pub(crate) type Decoded = Result<(), ParseError>;

/// Collects the operands of a draft.
pub(crate) struct Builder<'b, 'a, 's> {
    pub body: &'b mut Body<'a, 's>,
    pub operands: Vec<DraftOperand>,
}

impl<'a> Builder<'_, 'a, '_> {
    pub fn read(&mut self, operand: &Operand, class: Class, at: usize) -> Decoded {
        let slot = self.body.read(operand, class)?;
        self.operands.push(DraftOperand { class, usage: Use::Read, slot, at });
        Ok(())
    }
    pub fn write(&mut self, operand: &Operand, class: Class, at: usize) -> Decoded {
        let slot = self.body.write(operand, class)?;
        self.operands.push(DraftOperand { class, usage: Use::Write, slot, at });
        Ok(())
    }
    /// A constant source.
    pub fn immediate(&mut self, class: Class, value: u64, at: usize) {
        let slot = self.body.constant(class, value);
        self.operands.push(DraftOperand { class, usage: Use::Read, slot, at });
    }
    pub fn sink(&mut self, class: Class, at: usize) {
        let slot = self.body.fresh(class);
        self.operands.push(DraftOperand { class, usage: Use::Write, slot, at });
    }
}

/// Appends the draft of an instruction.
pub fn decode<'a>(
    body: &mut Body<'a, '_>,
    opcode: &str,
    operands: &[Operand<'a>],
    guard: Option<Guard>,
) -> Decoded {
    let parts: Vec<&str> = opcode.split('.').collect();
    let count = |n: usize| {
        if operands.len() == n {
            Ok(())
        } else {
            Err(format!("`{opcode}` takes {n} operands, not {}", operands.len()))
        }
    };
    let line = body.line;
    let error = |reason: String| ParseError { line, reason };
    let mut builder = Builder { body, operands: Vec::new() };
    let (run, arg) = match parts[0] {
        "bra" => {
            count(1).map_err(error)?;
            let Operand::Name(label) = operands[0] else { return Err(error("expected a label".into())) };
            builder.body.push(opcode, Run::Jump(0), Vec::new(), 0, guard);
            if let Some(draft) = builder.body.drafts.last_mut() {
                draft.target = Some(label);
            }
            return Ok(());
        }
        "ret" | "exit" => (Run::Exit, 0),
        "trap" => (Run::Trap, 0),
        "membar" | "fence" | "prefetch" | "prefetchu" | "nanosleep" | "pmevent" | "discard"
        | "applypriority" | "griddepcontrol" => (Run::Nothing, 0),
        "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "ldmatrix" | "stmatrix" => {
            match opcode_memory::decode(&mut builder, opcode, &parts, operands)? {
                Some(run) => (run, 0),
                None => return Err(error(format!("unknown instruction `{opcode}`"))),
            }
        }
        "bar" | "barrier" => barrier(&mut builder, opcode, &parts, operands)?,
        "shfl" => shuffle(&mut builder, opcode, &parts, operands)?,
        "vote" | "match" | "activemask" | "redux" | "elect" => vote(&mut builder, opcode, &parts, operands)?,
        "mma" => mma(&mut builder, opcode, &parts, operands)?,
        "mov" if operands.iter().any(|o| matches!(o, Operand::Vector(_))) => {
            return pack(builder, opcode, &parts, operands, guard);
        }
        "mov" | "and" | "or" | "xor" | "not" if parts.last() == Some(&"pred") => {
            let (operation, sources): (fn(u32, u32, u32) -> u32, usize) = match parts[0] {
                "mov" => (|a, _, _| a, 1),
                "and" => (|a, b, _| a & b, 2),
                "or" => (|a, b, _| a | b, 2),
                "xor" => (|a, b, _| a ^ b, 2),
                _ => (|a, _, _| !a, 1),
            };
            count(sources + 1).map_err(error)?;
            builder.write(&operands[0], Class::Predicate, 0)?;
            for at in 1..3 {
                builder.read(&operands[at.min(sources)], Class::Predicate, at)?;
            }
            builder.immediate(Class::Predicate, 0, 3);
            (Run::Masks(operation), 0)
        }
        "cvta" | "isspacep" => match window(&mut builder, &parts, operands)? {
            Some(found) => found,
            None => return Err(error(format!("unknown instruction `{opcode}`"))),
        },
        "setp" => compare(&mut builder, opcode, &parts, operands)?,
        _ => lanes(&mut builder, opcode, operands)?,
    };
    let operands = builder.operands;
    body.push(opcode, run, operands, arg, guard);
    Ok(())
}

/// An instruction of the table in `arith`.
fn lanes(builder: &mut Builder, opcode: &str, operands: &[Operand]) -> Result<(Run, u32), ParseError> {
    let Some((entry, arg)) = arith::find(opcode) else {
        return Err(builder.body.error(format!("unknown instruction `{opcode}`")));
    };
    if operands.len() != entry.sources.len() + 1 {
        let needed = entry.sources.len() + 1;
        return Err(builder
            .body
            .error(format!("`{opcode}` takes {needed} operands, not {}", operands.len())));
    }
    builder.write(&operands[0], entry.result, 0)?;
    for (at, (operand, &class)) in operands[1..].iter().zip(&entry.sources).enumerate() {
        builder.read(operand, class, at + 1)?;
    }
    Ok((Run::Lanes(entry.execute), arg))
}

/// `setp`, plain or with a second result and a third predicate.
fn compare(
    builder: &mut Builder,
    opcode: &str,
    parts: &[&str],
    operands: &[Operand],
) -> Result<(Run, u32), ParseError> {
    let combine: Option<fn(u32, u32) -> u32> = match parts.get(2) {
        Some(&"and") => Some(|a, b| a & b),
        Some(&"or") => Some(|a, b| a | b),
        Some(&"xor") => Some(|a, b| a ^ b),
        _ => None,
    };
    let Some(Operand::Pair(p, q)) = operands.first() else {
        if combine.is_none() {
            return lanes(builder, opcode, operands);
        }
        let pair = Operand::Pair(Box::new(operands[0].clone()), Box::new(Operand::Name("_")));
        let mut all = vec![pair];
        all.extend_from_slice(&operands[1..]);
        return compare(builder, opcode, parts, &all);
    };
    let mut plain = parts.to_vec();
    if combine.is_some() {
        plain.remove(2);
    }
    let Some((entry, arg)) = arith::find(&plain.join(".")) else {
        return Err(builder.body.error(format!("unknown instruction `{opcode}`")));
    };
    if operands.len() != 3 + combine.is_some() as usize {
        return Err(builder.body.error(format!("`{opcode}` with {} operands", operands.len())));
    }
    builder.write(p, Class::Predicate, 0)?;
    builder.read(&operands[1], entry.sources[0], 1)?;
    builder.read(&operands[2], entry.sources[1], 2)?;
    let (third, negated) = match operands.get(3) {
        Some(Operand::Not(name)) => (Operand::Name(name), true),
        Some(operand) => (operand.clone(), false),
        None => (Operand::Integer(1), false),
    };
    builder.read(&third, Class::Predicate, 3)?;
    builder.write(q, Class::Predicate, 4)?;
    let combine = combine.unwrap_or(|a, _| a);
    Ok((Run::Compare(Box::new(Comparison { execute: entry.execute, combine, negated })), arg))
}

/// `mov` between a vector and a wider register, as one instruction for each piece.
fn pack<'a>(
    builder: Builder<'_, 'a, '_>,
    opcode: &str,
    parts: &[&str],
    operands: &[Operand<'a>],
    guard: Option<Guard>,
) -> Decoded {
    let body = builder.body;
    let error = body.error(format!("`{opcode}` with operands of this form"));
    let bits = if parts.last().is_some_and(|part| part.ends_with("64")) { "64" } else { "32" };
    match operands {
        [Operand::Vector(pieces), whole] => {
            let names: &[&str] = match pieces.len() {
                2 => &["unpack.lo.b", "unpack.hi.b"],
                4 if bits == "64" => &["unpack.0.b", "unpack.1.b", "unpack.2.b", "unpack.3.b"],
                _ => return Err(error),
            };
            // The whole may be one of the pieces, so it is read into a register of its own.
            let class = if bits == "64" { Class::Double } else { Class::Word };
            let slot = body.fresh(class);
            let copy = arith::entry(&format!("mov.b{bits}")).ok_or_else(|| error.clone())?;
            let mut operands = vec![DraftOperand { class, usage: Use::Write, slot, at: 0 }];
            operands.push(DraftOperand { class, usage: Use::Read, slot: body.read(whole, class)?, at: 1 });
            body.push(opcode, Run::Lanes(copy.execute), operands, 0, guard);
            for (piece, name) in pieces.iter().zip(names).filter(|(piece, _)| **piece != Operand::Name("_")) {
                let entry = arith::entry(&format!("{name}{bits}")).ok_or_else(|| error.clone())?;
                let destination = body.write(piece, Class::Word)?;
                let operands = vec![
                    DraftOperand { class: Class::Word, usage: Use::Write, slot: destination, at: 0 },
                    DraftOperand { class, usage: Use::Read, slot, at: 1 },
                ];
                body.push(opcode, Run::Lanes(entry.execute), operands, 0, guard);
            }
            Ok(())
        }
        [whole, Operand::Vector(pieces)] => {
            let name = if pieces.len() == 4 { "pack4.b64".to_string() } else { format!("pack.b{bits}") };
            let entry = arith::entry(&name).filter(|entry| entry.sources.len() == pieces.len());
            let entry = entry.ok_or_else(|| error.clone())?;
            let mut builder = Builder { body, operands: Vec::new() };
            builder.write(whole, entry.result, 0)?;
            for (at, piece) in pieces.iter().enumerate() {
                builder.read(piece, Class::Word, at + 1)?;
            }
            let operands = builder.operands;
            body.push(opcode, Run::Lanes(entry.execute), operands, 0, guard);
            Ok(())
        }
        _ => Err(error),
    }
}

/// `cvta` and `isspacep`: arithmetic on the windows of the generic address space.
fn window(
    builder: &mut Builder,
    parts: &[&str],
    operands: &[Operand],
) -> Result<Option<(Run, u32)>, ParseError> {
    let window = |space: &str| match space.split("::").next() {
        Some("global" | "const" | "param") => Some(0),
        Some("shared") => Some(SHARED_WINDOW as u32),
        Some("local") => Some(LOCAL_WINDOW as u32),
        _ => None,
    };
    let (name, space) = match parts {
        ["cvta", "to", space, "u64"] => ("cvta.to.window", space),
        ["cvta", space, "u64"] => ("cvta.window", space),
        ["isspacep", space] => ("isspacep", space),
        _ => return Ok(None),
    };
    let Some(window) = window(space) else { return Ok(None) };
    let (Some(entry), [d, a]) = (arith::entry(name), operands) else { return Ok(None) };
    builder.write(d, entry.result, 0)?;
    builder.read(a, Class::Double, 1)?;
    Ok(Some((Run::Lanes(entry.execute), window)))
}

/// An access of the usual form.
pub(crate) fn access(kind: Kind, space: Space, size: usize) -> Access {
    Access {
        kind,
        space,
        size: size as u8,
        count: 1,
        signed: false,
        double_values: false,
        double_address: false,
        offset: 0,
        double_source: false,
        source_offset: 0,
    }
}
