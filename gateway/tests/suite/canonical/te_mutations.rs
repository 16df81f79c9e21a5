//! Disguises of the line `Transfer-Encoding: chunked`, one of which some server takes for it and some other does not.
//!
//! Which disguises there are was found out by Evan Custodio for his tool Smuggler (github.com/defparam/smuggler,
//! `configs/exhaustive.py`); this makes the same byte strings by rules of our own, so that a gateway can be asked about
//! all of them without the tool. A byte is one byte here, where the tool sends those above 0x7f as UTF-8.

use std::ops::RangeInclusive;

/// Bytes that a lenient reader may skip as if they were blanks: controls, and all that is no ASCII. As in the tool, NUL
/// is not among them, nor the blank itself.
const BLANK_TO_SOME: [RangeInclusive<u8>; 2] = [0x01..=0x1f, 0x7f..=0xff];

/// What stands before and behind such a byte. It comes instead of the blank before the value, and is added elsewhere.
const PLACES: [(&str, &[u8], &[u8]); 4] = [
    ("before the name", b"", b"Transfer-Encoding: chunked"),
    ("before the colon", b"Transfer-Encoding", b": chunked"),
    ("before the value", b"Transfer-Encoding:", b"chunked"),
    ("behind the value", b"Transfer-Encoding: chunked", b""),
];

/// Disguises that follow no rule. Five of them come of the rule as well; they are here so that the count is the tool's.
const SINGLE: [(&str, &[u8]); 28] = [
    // White space.
    ("a blank before the name", b" Transfer-Encoding: chunked"),
    ("a blank before the colon", b"Transfer-Encoding : chunked"),
    ("two blanks before the value", b"Transfer-Encoding:  chunked"),
    ("a tab before the value", b"Transfer-Encoding:\tchunked"),
    ("tabs around the colon", b"Transfer-Encoding\t:\tchunked"),
    ("a tab behind the value", b"Transfer-Encoding: chunked\t"),
    ("a vertical tab before the value", b"Transfer-Encoding:\x0bchunked"),
    // Ends of lines.
    ("a folded line without CR", b"Transfer-Encoding:\n chunked"),
    ("a CR within the name", b"Transfer\r-Encoding: chunked"),
    ("a CR behind the value", b"Transfer-Encoding: chunked\r"),
    ("behind a line that ends with CR", b"X:X\rTransfer-Encoding: chunked"),
    ("behind a line that ends with LF", b"X:X\nTransfer-Encoding: chunked"),
    // Names.
    ("a blank in the name", b"Transfer Encoding: chunked"),
    ("a blank in the name, and none before the value", b"Transfer Encoding:chunked"),
    ("an underscore in the name", b"Transfer_Encoding: chunked"),
    ("an 8-bit byte in the name", b"Transf\x82r-Encoding: chunked"),
    ("the name of another field", b"Content-Encoding: chunked"),
    ("mixed case", b"TrAnSFer-EnCODinG: cHuNkeD"),
    ("upper case", b"TRANSFER-ENCODING: CHUNKED"),
    // Values.
    ("before another coding", b"Transfer-Encoding: chunked, cow"),
    ("behind another coding", b"Transfer-Encoding: cow, chunked"),
    ("a field behind another coding's", b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked"),
    ("among other words", b"Transfer-Encoding: cow chunked bar"),
    ("double quotes", b"Transfer-Encoding: \"chunked\""),
    ("single quotes", b"Transfer-Encoding: 'chunked'"),
    ("half of the word", b"Transfer-Encoding: chunk"),
    ("an 8-bit byte in the value", b"Transfer-Encoding: ch\x96nked"),
    ("an 8-bit byte before the value", b"Transfer-Encoding:\xffchunked"),
];

/// Every disguise: a name, and the lines with their ends, which stand where `Transfer-Encoding: chunked\r\n` would.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let single = SINGLE.into_iter().map(|(name, lines)| (name.to_owned(), [lines, b"\r\n"].concat()));
    let of_place = |(place, before, behind): (&str, &[u8], &[u8])| {
        let with = |byte| (format!("byte {byte:#04x} {place}"), [before, &[byte], behind, b"\r\n"].concat());
        BLANK_TO_SOME.into_iter().flatten().map(with).collect::<Vec<_>>()
    };
    single.chain(PLACES.into_iter().flat_map(of_place)).collect()
}
