use super::*;

/// A short string as Python 2 pickles it.
pub fn string(text: &str) -> Vec<u8> {
    [&[b'U', text.len() as u8], text.as_bytes()].concat()
}

/// A list of small integers.
pub fn integers(values: &[u8]) -> Vec<u8> {
    [b"](".to_vec(), values.iter().flat_map(|&value| [b'K', value]).collect(), b"e".to_vec()].concat()
}

/// A matrix of bytes with `width` columns, stored row by row or column by column.
pub fn matrix(bytes: &[u8], width: u16, columns: bool) -> Vec<u8> {
    let height = (bytes.len() / usize::from(width)) as u8;
    let [low, high] = width.to_le_bytes();
    [
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01".as_slice(),
        &[b'K', height, b'M', low, high, 0x86],
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        &[if columns { 0x88 } else { 0x89 }, b'T'],
        &(bytes.len() as u32).to_le_bytes(),
        bytes,
        b"tb",
    ]
    .concat()
}

/// A dictionary of pickled values.
pub fn dictionary(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items = items.iter().flat_map(|(key, value)| [string(key), value.clone()].concat());
    [b"\x80\x02}q\x01(".to_vec(), items.collect(), b"u.".to_vec()].concat()
}

fn error(bytes: &[u8]) -> String {
    Pickle::parse(bytes).err().unwrap()
}

#[test]
fn what_python_2_wrote() {
    let names = [b"](".as_slice(), &string("cat"), &string("dog"), b"e"].concat();
    let data = matrix(&[1, 2, 3, 4, 5, 6], 3, false);
    let bytes = dictionary(&[("names", names), ("labels", integers(&[7, 200])), ("data", data)]);
    let pickle = Pickle::parse(&bytes).unwrap();
    assert_eq!(pickle.strings("names").unwrap(), ["cat", "dog"]);
    assert_eq!(pickle.integers("labels").unwrap(), [7, 200]);
    assert_eq!(pickle.array("data").unwrap(), (&[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
    assert_eq!(pickle.integers("label").unwrap_err(), "the dictionary has no 'label'");
    assert_eq!(pickle.integers("names").unwrap_err(), "'names' is not a list of integers");
    assert_eq!(pickle.array("labels").unwrap_err(), "'labels' is not an array of uint8");
}

#[test]
fn a_matrix_stored_by_columns() {
    let bytes = dictionary(&[("data", matrix(&[1, 4, 2, 5, 3, 6], 3, true))]);
    let pickle = Pickle::parse(&bytes).unwrap();
    assert_eq!(pickle.array("data").unwrap(), (&[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
}

#[test]
fn bytes_as_python_3_writes_them_in_protocol_2() {
    // {b'a\xe9': [-2, 258]}: an item each by SETITEM and APPEND, and the value of a memo.
    let bytes = b"\x80\x02}q\x00c_codecs\nencode\nq\x01X\x03\x00\x00\x00a\xc3\xa9X\x06\x00\x00\x00\
                  latin1\x86Rr\x02\x00\x00\x00]J\xfe\xff\xff\xffaM\x02\x01as.";
    let pickle = Pickle::parse(bytes).unwrap();
    let Node::Dict(items) = &pickle.nodes[pickle.root] else { panic!("not a dictionary") };
    assert!(matches!(&pickle.nodes[items[0][0]], Node::Bytes(key) if **key == *b"a\xe9"));
    assert!(matches!(&pickle.nodes[items[0][1]], Node::List(list) if list.len() == 2));
}

#[test]
fn nothing_is_run_and_what_is_unknown_is_named() {
    let name = "0x63 'c' at offset 2: it names posix.system, which no CIFAR file does; nothing was run";
    let call = "0x52 'R' at offset 19: a call that no CIFAR file makes; nothing was run";
    let short = "0x55 'U' at offset 2: 5 bytes are expected and 3 remain; the file is incomplete";
    let cases: [(&[u8], &str); 9] = [
        (b"\x80\x02cposix\nsystem\nU\x04true\x85R.", name),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", call),
        (b"\x80\x02U\x05abc", short),
        (b"\x80\x04\x95", "0x80 '\\x80' at offset 0: expected pickle protocol 2 or 3, found 4"),
        (b"\x80\x02i", "0x69 'i' at offset 2: not one that CIFAR files use"),
        (b"h\x07.", "0x68 'h' at offset 0: memo 7 was never stored"),
        (b"K\x01(R", "0x52 'R' at offset 3: the stack is empty"),
        (b"t", "0x74 't' at offset 0: there is no mark"),
        (b"K\x01K\x02a", "0x61 'a' at offset 4: it adds to something other than a list or dictionary"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(error(bytes), format!("opcode {expected}"));
    }
    assert_eq!(error(b"\x80\x02}"), "the pickle ends at offset 3 without the opcode '.'");
}

/// A string in the memo and as many calls of `encode` with it as there are bytes of `calls`.
fn encoded_again_and_again(text: &str, calls: usize) -> Vec<u8> {
    let mut bytes = b"\x80\x02}U\x01k](c_codecs\nencode\nq\x01U\x06latin1q\x02X".to_vec();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend([text.as_bytes(), b"q\x00"].concat());
    (0..calls).for_each(|_| bytes.extend(b"h\x01h\x00h\x02\x86R"));
    [bytes, b"es.".to_vec()].concat()
}

#[test]
fn a_small_file_does_not_ask_for_much_memory() {
    let owned = |bytes: &[u8]| {
        let pickle = Pickle::parse(bytes)?;
        let own = |node: &Node| if let Node::Bytes(Cow::Owned(bytes)) = node { bytes.len() } else { 0 };
        Ok(pickle.nodes.iter().map(own).sum::<usize>())
    };
    assert_eq!(owned(&encoded_again_and_again(&"a".repeat(100_000), 4000)), Ok(0), "ASCII is shared");
    let error: Result<usize, String> = owned(&encoded_again_and_again(&"\u{e9}".repeat(100_000), 4000));
    assert!(error.clone().is_err_and(|error| error.contains(" bytes are made from 2")), "{error:?}");
    assert!(owned(&encoded_again_and_again(&"\u{e9}".repeat(100), 2)).is_ok());
    let many = [b"\x80\x02(".to_vec(), vec![b'N'; MOST_VALUES + 1]].concat();
    assert!(self::error(&many).ends_with("more than 1048576 values, which no CIFAR file has"));
}

#[test]
fn every_truncation_and_every_changed_byte_gives_an_answer() {
    let bytes = dictionary(&[("labels", integers(&[1, 2])), ("data", matrix(&[1, 2, 3, 4], 2, true))]);
    for end in 0..bytes.len() {
        assert!(Pickle::parse(&bytes[..end]).is_err(), "the first {end} bytes");
    }
    let is_refused = |&(at, value): &(usize, u8)| {
        let mut changed = bytes.clone();
        changed[at] = value;
        Pickle::parse(&changed).and_then(|pickle| pickle.array("data").map(|_| ())).is_err()
    };
    let changes = (0..bytes.len()).flat_map(|at| (0..=255).map(move |value| (at, value)));
    let refused = changes.filter(is_refused).count();
    assert!(refused > bytes.len() * 128, "{refused}");
}
