//! Opcodes of memory: loads, stores, atomics, asynchronous copies, matrices.

use crate::ParseError;
use crate::access::{Access, Kind};
use crate::fault::Space;
use crate::instruction::{Class, Run};
use crate::module::type_size;
use crate::opcode::{Builder, Decoded, access};
use crate::text::Operand;
use crate::transfer::Atomic;

/// The slot of the address; values take the slots before it.
pub const ADDRESS: usize = 4;

type Found = Result<Option<Run>, ParseError>;

/// None for an instruction that is not known.
pub(crate) fn decode(builder: &mut Builder, opcode: &str, parts: &[&str], operands: &[Operand]) -> Found {
    match parts {
        ["ld" | "ldu" | "st", modifiers @ .., kind] => {
            plain(builder, parts[0] == "st", modifiers, kind, operands)
        }
        ["atom" | "red", modifiers @ .., kind] => {
            atomic(builder, parts[0] == "red", modifiers, kind, operands)
        }
        ["cp", "async", rest @ ..] => asynchronous(builder, rest, operands),
        ["ldmatrix" | "stmatrix", ..] => matrix(builder, opcode, operands),
        _ => Ok(None),
    }
}

fn space(name: &str) -> Option<Space> {
    Some(match name.split("::").next()? {
        "global" => Space::Global,
        "shared" if name != "shared::cluster" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

/// Modifiers that say nothing to a machine without caches and with all memory in order.
fn is_hint(part: &str) -> bool {
    let hints =
        ["weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys", "cluster"];
    let caches = ["nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "noftz"];
    hints.contains(&part)
        || caches.contains(&part)
        || part.starts_with("L1::")
        || (part.starts_with("L2::") && part != "L2::cache_hint")
}

fn pieces<'o, 'a>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
    match operand {
        Operand::Vector(pieces) => pieces,
        single => std::slice::from_ref(single),
    }
}

/// The class of a value's register: an access may use a register wider than its type.
fn value_class(builder: &Builder, value: &Operand, size: usize) -> Class {
    match value {
        Operand::Name(name) => builder.body.class_of(name),
        _ => None,
    }
    .unwrap_or(if size == 8 { Class::Double } else { Class::Word })
}

fn address(builder: &mut Builder, operand: &Operand, access: &mut Access) -> Decoded {
    let (slot, class, offset) = builder.body.address(operand)?;
    let usage = crate::instruction::Use::Read;
    builder.operands.push(crate::body::DraftOperand { class, usage, slot, at: ADDRESS });
    access.double_address = class == Class::Double;
    access.offset = offset;
    Ok(())
}

fn plain(builder: &mut Builder, store: bool, modifiers: &[&str], kind: &str, operands: &[Operand]) -> Found {
    let Some(size) = type_size(kind).filter(|&size| size <= 8) else { return Ok(None) };
    let mut access = access(if store { Kind::Store } else { Kind::Load }, Space::Generic, size);
    access.signed = kind.starts_with('s');
    for part in modifiers {
        match *part {
            "v2" => access.count = 2,
            "v4" => access.count = 4,
            _ => match space(part) {
                Some(space) => access.space = space,
                None if is_hint(part) => {}
                None => return Ok(None),
            },
        }
    }
    let [first, second] = operands else { return Ok(None) };
    let (values, place) = if store { (second, first) } else { (first, second) };
    let values = pieces(values);
    if values.len() != access.count as usize || size * values.len() > 16 {
        return Ok(None);
    }
    // A value may be `_` in a vector that is loaded; then the others decide.
    let named = values.iter().find(|value| **value != Operand::Name("_")).unwrap_or(&values[0]);
    let class = value_class(builder, named, size);
    access.double_values = class == Class::Double;
    for (at, value) in values.iter().enumerate() {
        if store {
            builder.read(value, class, at)?;
        } else {
            builder.write(value, class, at)?;
        }
    }
    address(builder, place, &mut access)?;
    Ok(Some(Run::Memory(Box::new(access))))
}

fn atomic(
    builder: &mut Builder,
    reduce: bool,
    modifiers: &[&str],
    kind: &str,
    operands: &[Operand],
) -> Found {
    let Some(size) = type_size(kind).filter(|size| [4, 8].contains(size)) else { return Ok(None) };
    let (mut operation, mut space_found) = (None, Space::Generic);
    for part in modifiers {
        match space(part) {
            Some(found) => space_found = found,
            None if is_hint(part) => {}
            None => operation = Some(*part),
        }
    }
    let float = kind.starts_with('f') && !kind.ends_with("x2");
    let operation = match (operation, kind.as_bytes()[0]) {
        (Some("add"), _) if float => Atomic::AddFloat,
        (Some("add"), b'u' | b's') => Atomic::Add,
        (Some("min"), b's') => Atomic::MinSigned,
        (Some("max"), b's') => Atomic::MaxSigned,
        (Some("min"), b'u') => Atomic::Min,
        (Some("max"), b'u') => Atomic::Max,
        (Some("and"), b'b') => Atomic::And,
        (Some("or"), b'b') => Atomic::Or,
        (Some("xor"), b'b') => Atomic::Xor,
        (Some("exch"), b'b') => Atomic::Exchange,
        (Some("cas"), b'b') => Atomic::CompareAndSwap,
        (Some("inc"), b'u') => Atomic::Increment,
        (Some("dec"), b'u') => Atomic::Decrement,
        _ => return Ok(None),
    };
    let class = if size == 8 { Class::Double } else { Class::Word };
    let mut access = access(Kind::Atomic(operation), space_found, size);
    access.double_values = size == 8;
    let sources = if reduce {
        builder.sink(class, 0);
        operands
    } else {
        let [d, rest @ ..] = operands else { return Ok(None) };
        builder.write(d, class, 0)?;
        rest
    };
    let (place, values) = match sources {
        [place, b] => (place, [b, b]),
        [place, b, c] => (place, [b, c]),
        _ => return Ok(None),
    };
    for (at, value) in values.into_iter().enumerate() {
        builder.read(value, class, at + 1)?;
    }
    address(builder, place, &mut access)?;
    Ok(Some(Run::Memory(Box::new(access))))
}

/// `cp.async` with a size that does not depend on an mbarrier. Slots: bytes to read, source address.
fn asynchronous(builder: &mut Builder, parts: &[&str], operands: &[Operand]) -> Found {
    match (parts, operands) {
        (["commit_group"], []) => return Ok(Some(Run::AsyncCommit)),
        (["wait_all"], []) => return Ok(Some(Run::AsyncWait(None))),
        (["wait_group"], [Operand::Integer(groups)]) => {
            return Ok(Some(Run::AsyncWait(Some(*groups as u32))));
        }
        (["ca" | "cg", "shared" | "shared::cta", "global", hints @ ..], _)
            if hints.iter().all(|hint| is_hint(hint)) => {}
        _ => return Ok(None),
    }
    let (place, source, size, read) = match operands {
        [place, source, Operand::Integer(size)] => (place, source, *size, None),
        [place, source, Operand::Integer(size), read] => (place, source, *size, Some(read)),
        _ => return Ok(None),
    };
    if ![4, 8, 16].contains(&size) || (parts[0] == "cg" && size != 16) {
        return Err(builder.body.error(format!("cp.async.{} of {size} bytes", parts[0])));
    }
    let mut access = access(Kind::AsyncCopy, Space::Shared, size as usize);
    match read {
        Some(read) => builder.read(read, Class::Word, 0)?,
        None => builder.immediate(Class::Word, size as u64, 0),
    }
    let (slot, class, offset) = builder.body.address(source)?;
    let usage = crate::instruction::Use::Read;
    builder.operands.push(crate::body::DraftOperand { class, usage, slot, at: 1 });
    access.double_source = class == Class::Double;
    access.source_offset = offset;
    address(builder, place, &mut access)?;
    Ok(Some(Run::Memory(Box::new(access))))
}

fn matrix(builder: &mut Builder, opcode: &str, operands: &[Operand]) -> Found {
    let parts: Vec<&str> = opcode.split('.').collect();
    let store = parts[0] == "stmatrix";
    if !parts.contains(&"sync") || !parts.contains(&"m8n8") || parts.last() != Some(&"b16") {
        return Ok(None);
    }
    let count = match parts.iter().find(|part| part.starts_with('x')) {
        Some(&"x1") => 1,
        Some(&"x2") => 2,
        Some(&"x4") => 4,
        _ => return Ok(None),
    };
    let transposed = parts.contains(&"trans");
    let kind = if store { Kind::StoreMatrix { transposed } } else { Kind::LoadMatrix { transposed } };
    let place = parts.iter().find_map(|part| space(part)).unwrap_or(Space::Generic);
    let mut access = access(kind, place, 16);
    access.count = count;
    let [first, second] = operands else { return Ok(None) };
    let (values, place) = if store { (second, first) } else { (first, second) };
    let values = pieces(values);
    if values.len() != count as usize {
        return Ok(None);
    }
    for (at, value) in values.iter().enumerate() {
        if store {
            builder.read(value, Class::Word, at)?;
        } else {
            builder.write(value, Class::Word, at)?;
        }
    }
    address(builder, place, &mut access)?;
    Ok(Some(Run::Memory(Box::new(access))))
}
