//! What differs between two texts, line by line.

/// Lines of the larger text up to which the shortest difference is looked for; beyond, everything between the common ends counts as different.
const LIMIT: usize = 2000;

/// One line of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// In both texts.
    Same(&'a str),
    /// Only in the old one.
    Removed(&'a str),
    /// Only in the new one.
    Added(&'a str),
}

/// The shortest difference that leads from one text to another.
pub(crate) fn difference<'a>(old: &'a str, new: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old_middle, end) = old_rest.split_at(old_rest.len() - tail);
    let new_middle = &new_rest[..new_rest.len() - tail];

    let mut lines: Vec<Line<'a>> = old[..head].iter().map(|line| Line::Same(line)).collect();
    middle(old_middle, new_middle, &mut lines);
    lines.extend(end.iter().map(|line| Line::Same(line)));
    lines
}

/// By the longest common subsequence.
fn middle<'a>(old: &[&'a str], new: &[&'a str], lines: &mut Vec<Line<'a>>) {
    let (mut i, mut j) = (0, 0);
    if old.len() <= LIMIT && new.len() <= LIMIT {
        let width = new.len() + 1;
        // lengths[i * width + j]: of the longest common subsequence of old[i..] and new[j..]
        let mut lengths = vec![0u16; (old.len() + 1) * width];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                lengths[i * width + j] = if old[i] == new[j] {
                    lengths[(i + 1) * width + j + 1] + 1
                } else {
                    lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
                };
            }
        }
        while i < old.len() && j < new.len() {
            if old[i] == new[j] {
                lines.push(Line::Same(old[i]));
                (i, j) = (i + 1, j + 1);
            } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
                lines.push(Line::Removed(old[i]));
                i += 1;
            } else {
                lines.push(Line::Added(new[j]));
                j += 1;
            }
        }
    }
    lines.extend(old[i..].iter().map(|line| Line::Removed(line)));
    lines.extend(new[j..].iter().map(|line| Line::Added(line)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_leads_from_one_text_to_the_other() {
        let texts = [
            "",
            "a",
            "a\nb\nc",
            "a\nx\nc",
            "b\nc\nd\ne",
            "c\nb\na",
            "a\na\nb\nb\na",
        ];
        for old in texts {
            for new in texts {
                let lines = difference(old, new);
                let keep = |wanted: fn(&Line<'_>) -> bool| -> Vec<String> {
                    let text = |line: &Line<'_>| match *line {
                        Line::Same(text) | Line::Removed(text) | Line::Added(text) => {
                            text.to_owned()
                        }
                    };
                    lines.iter().filter(|line| wanted(line)).map(text).collect()
                };
                assert_eq!(keep(|line| !matches!(line, Line::Added(_))).join("\n"), old);
                assert_eq!(
                    keep(|line| !matches!(line, Line::Removed(_))).join("\n"),
                    new
                );
            }
        }
        assert_eq!(
            difference("a\nb\nc", "a\nx\nc"),
            [
                Line::Same("a"),
                Line::Removed("b"),
                Line::Added("x"),
                Line::Same("c")
            ]
        );
    }
}
