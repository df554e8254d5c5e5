/**
 * Writes manual pages in mdoc(7). Text comes from the command table and the schemas, so everything that means something to
 * roff is escaped here; text in backticks is shown as a literal.
 */

/** What stands in a page below its heading. */
export type Block =
  | { text: string }
  /** lines as they are typed */
  | { literal: readonly string[] }
  /** terms in literal type, each with what it means */
  | { terms: readonly { term: string; text: string }[] }
  /** a command line in parts */
  | { synopsis: readonly string[] };

export interface Page {
  /** name of the page, e.g. `banger-vm-list` */
  name: string;
  section: 1 | 5 | 8;
  /** what it is, without its final dot */
  about: string;
  /** heading and what is below it, in the order of mdoc(7) */
  sections: readonly (readonly [heading: string, blocks: readonly Block[]])[];
  /** other pages, each with its section, e.g. `banger 1` */
  seeAlso: readonly string[];
}

/** Lines of the source longer than this are told off by mandoc. */
const MAX_LINE = 78;

/** @param date day of the page, UTC */
export function renderPage(page: Page, date: Date): string {
  const day = `${date.toLocaleString('en', { month: 'long', timeZone: 'UTC' })} ${date.getUTCDate()}, ${date.getUTCFullYear()}`;
  const lines = [
    `.Dd ${day}`,
    `.Dt ${page.name.toUpperCase()} ${page.section}`,
    '.Os banger',
    '.Sh NAME',
    `.Nm ${page.name}`,
    `.Nd ${escaped(lowerFirst(page.about))}`,
    ...page.sections.flatMap(([heading, blocks]) => [`.Sh ${heading}`, ...renderBlocks(blocks)]),
  ];
  const others = [...new Set(page.seeAlso)].filter((other) => other !== `${page.name} ${page.section}`).sort(bySection);
  if (others.length > 0) {
    lines.push('.Sh SEE ALSO');
    lines.push(...others.map((other, index) => `.Xr ${other}${index < others.length - 1 ? ' ,' : ''}`));
  }
  return `${lines.join('\n')}\n`;
}

function renderBlocks(blocks: readonly Block[]): string[] {
  return blocks.flatMap((block, index) => [
    ...(index > 0 && 'text' in block && 'text' in (blocks[index - 1] ?? {}) ? ['.Pp'] : []),
    ...renderBlock(block),
  ]);
}

function renderBlock(block: Block): string[] {
  if ('text' in block) return prose(block.text);
  if ('literal' in block) return ['.Bd -literal -offset indent', ...block.literal.map(escapeLine), '.Ed'];
  if ('synopsis' in block) return [`.Nm ${escaped(block.synopsis[0] ?? '')}`, ...block.synopsis.slice(1).map(argument)];
  return [
    '.Bl -tag -width Ds',
    ...block.terms.flatMap(({ term, text }) => [`.It Li ${quoted(term)}`, ...prose(text)]),
    '.El',
  ];
}

/** `<name>` is to be replaced, `[…]` may be missing, anything else is typed as it is. */
function argument(word: string): string {
  const optional = /^\[(.*)\]$/.exec(word)?.[1];
  if (optional !== undefined)
    return `.Op ${optional
      .split(' ')
      .map((part) => argument(part).slice(1))
      .join(' ')}`;
  const placeholder = /^<(.*)>$/.exec(word)?.[1];
  return placeholder === undefined ? `.Cm ${quoted(word)}` : `.Ar ${quoted(placeholder)}`;
}

/** Paragraphs of sentences, one sentence a line as roff wants them. */
function prose(text: string): string[] {
  const paragraphs = text.split(/\n{2,}/).map((paragraph) => {
    // lines that are set in are a table of their own
    if (paragraph.split('\n').some((line) => line.startsWith('  '))) {
      const [first = '', ...rest] = paragraph.split('\n');
      return [
        ...sentences(first),
        '.Bd -literal -offset indent',
        ...rest.map((line) => escapeLine(line.trim())),
        '.Ed',
      ];
    }
    return sentences(paragraph.replaceAll('\n', ' '));
  });
  return paragraphs.flatMap((lines, index) => (index === 0 ? lines : ['.Pp', ...lines]));
}

function sentences(text: string): string[] {
  return text
    .split(/(?<=[.!?])\s+(?=[A-Z`])/)
    .flatMap((sentence) => wrap(sentence.trim()))
    .filter((line) => line !== '')
    .map((line) => literals(escapeLine(line)));
}

function wrap(sentence: string): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of sentence.split(/\s+/)) {
    // room for what escapes add
    if (line !== '' && line.length + word.length + 1 > MAX_LINE - 16) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

/** Text in backticks in bold; one that goes on in the next line is left as it is. */
function literals(line: string): string {
  return line.replace(/\\\(ga([^`]*?)\\\(ga/g, '\\fB$1\\fP');
}

function escapeLine(line: string): string {
  return /^[.']/.test(line) ? `\\&${escaped(line)}` : escaped(line);
}

/** Characters by their names, so that they come out as they are in every output: no ligatures, hyphens or quotes of print. */
function escaped(text: string): string {
  const names: Record<string, string> = {
    '\\': '\\e',
    '`': '\\(ga',
    "'": '\\(aq',
    '-': '\\-',
    '^': '\\(ha',
    '~': '\\(ti',
    '…': '...',
    '’': '\\(aq',
    '–': '\\(en',
    '×': '\\(mu',
    '→': '\\(->',
    '≥': '\\(>=',
    '³': '\\(S3',
  };
  return text.replace(/[\\`'\-^~…’–×→≥³]/g, (character) => names[character] ?? character);
}

/** An argument of a macro: one word, whatever is in it, that is not taken for a macro itself. */
function quoted(word: string): string {
  return `"\\&${escaped(word).replaceAll('"', '""')}"`;
}

/** A sentence as a noun phrase goes on behind a dash; names stay as they are. */
function lowerFirst(text: string): string {
  const [first = ''] = text.split(' ');
  const isName = /^(Debian|Firecracker)$/.test(first) || /^[A-Z][A-Z]/.test(first);
  return isName ? text : text.charAt(0).toLowerCase() + text.slice(1);
}

function bySection(one: string, other: string): number {
  const key = (page: string) => page.split(' ').reverse().join(' ');
  return key(one) < key(other) ? -1 : 1;
}
