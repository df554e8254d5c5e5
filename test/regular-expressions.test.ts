/**
 * Regular expressions take time in proportion to their text: one that does not lets a guest stop the daemon, which has
 * one thread. Each is looked at twice: by scslre, which reasons, and by texts made of its own pieces, which are timed.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { join, resolve } from 'node:path';
import { it } from 'node:test';
import { createContext, runInContext } from 'node:vm';
import { parse } from 'acorn';
import { analyse } from 'scslre';
import { paced } from './support/pace.ts';

const ROOT = resolve(import.meta.dirname, '..');

/** Text of this length is read in less than this, or it is refused. */
const TEXT_LENGTH = 64 * 1024;
const LIMIT_MS = paced(100);
/** All of a pattern's texts, at a sixteenth of the length, are read in a third of this when it is quick. */
const SUSPECT_MS = 10;

interface Pattern {
  source: string;
  flags: string;
  place: string;
}

type Node = { type: string; [key: string]: unknown };

const isNode = (value: unknown): value is Node => typeof value === 'object' && value !== null && 'type' in value;

/** Literals, and what `new RegExp` is given as text; what is filled in counts as a word. */
function patternsIn(text: string, file: string): Pattern[] {
  const found: Pattern[] = [];
  const add = (source: string, flags: string) => found.push({ source, flags, place: file });
  const visit = (value: unknown): void => {
    if (Array.isArray(value)) for (const one of value) visit(one);
    if (!isNode(value)) return;
    const { regex, callee } = value as { regex?: { pattern: string; flags: string }; callee?: Node };
    if (value.type === 'Literal' && regex) add(regex.pattern, regex.flags);
    if ((value.type === 'NewExpression' || value.type === 'CallExpression') && callee?.name === 'RegExp') {
      const [pattern, flags] = value.arguments as [Node, Node | undefined];
      const quasis = pattern.quasis as { value: { cooked: string } }[] | undefined;
      const source = quasis?.map((part) => part.value.cooked).join('Word') ?? pattern.value;
      assert(typeof source === 'string', `${file}: a pattern that is neither text nor template cannot be looked at`);
      add(source, typeof flags?.value === 'string' ? flags.value : '');
    }
    for (const child of Object.values(value)) visit(child);
  };
  visit(parse(stripTypeScriptTypes(text), { ecmaVersion: 'latest', sourceType: 'module' }));
  return found;
}

function allPatterns(): Pattern[] {
  return ['src', 'fcqemu'].flatMap((directory) =>
    readdirSync(join(ROOT, directory), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .flatMap((name) => patternsIn(readFileSync(join(ROOT, directory, name), 'utf8'), `${directory}/${name}`)),
  );
}

/** Pieces a pattern is made of, as texts that match them: `\("(.*?)",pid=` gives `(`, `("`, `("a`, and so on. */
function piecesOf(source: string): string[] {
  const plain = source.replace(
    /\\(?:u[\da-f]{4}|x[\da-f]{2}|[bB](?!\w{2})|.)|\[(\^?)((?:\\.|[^\]\\])*)\]|\(\?(?:[:=!]|<[=!]|<\w+>)|\{[\d,]*\}|[()^$*+?.]/gi,
    (part, not: string | undefined, set: string | undefined) => {
      if (set !== undefined) return not ? 'a' : sampleOf(set);
      return part.startsWith('\\') || part === '.' ? sampleOf(part) : '';
    },
  );
  return plain.split('|').flatMap((word) => Array.from(word, (_, length) => word.slice(0, length + 1)));
}

/** One character that an escape, a dot or the inside of a class takes. */
function sampleOf(set: string): string {
  const known: Record<string, string> = {
    s: ' ',
    S: 'a',
    d: '0',
    D: 'a',
    w: 'a',
    W: '-',
    n: '\n',
    r: '\r',
    t: '\t',
    b: '',
  };
  if (set === '.') return 'a';
  const code = /^\\[xu]([\da-f]{2,4})/i.exec(set)?.[1];
  if (code !== undefined) return String.fromCharCode(Number.parseInt(code, 16));
  return set.startsWith('\\') ? (known[set.charAt(1)] ?? set.charAt(1)) : set.charAt(0);
}

/** Texts that make a pattern try again at every place: a beginning, then one piece again and again. */
function attacks(source: string): [head: string, piece: string][] {
  const pieces = [...new Set([...piecesOf(source), ' ', '\n', '\r', 'a', '0', '-', '"'])];
  const ends = [...new Set(pieces.map((piece) => piece.slice(-1)))];
  return pieces.flatMap(
    (piece) => [['', piece], ...ends.map((end): [string, string] => [piece, end])] as [string, string][],
  );
}

const sandbox = createContext({ pattern: /x/, texts: [''] });

/** CPU time of a search in each text; a search that does not end is stopped. */
function searchMs(pattern: RegExp, texts: string[]): number {
  Object.assign(sandbox, { pattern, texts });
  const before = process.cpuUsage();
  try {
    runInContext('for (const text of texts) { pattern.lastIndex = 0; text.replace(pattern, "") }', sandbox, {
      timeout: 20_000,
    });
  } catch {
    return Number.POSITIVE_INFINITY;
  }
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** Each time, once may be what else the machine does: above a limit, or growing with the square on any machine. */
function isSlow(pattern: RegExp, text: string): boolean {
  const half = text.slice(0, text.length / 2);
  return [1, 2, 3, 4].every(() => {
    const ms = searchMs(pattern, [text]);
    return ms > LIMIT_MS || (ms > SUSPECT_MS && ms > 3 * searchMs(pattern, [half]));
  });
}

/** A text on which the pattern is too slow; its beginning. */
function slowText({ source, flags }: Pick<Pattern, 'source' | 'flags'>): string | undefined {
  if (!/[*+]|,\}/.test(source)) return undefined;
  const pattern = new RegExp(source, /[gy]/.test(flags) ? flags : `${flags}g`);
  const texts = (length: number) =>
    attacks(source).map(([head, piece]) => `${head}${piece.repeat(Math.ceil(length / piece.length))}\0`);
  // all at once on short texts, where what grows with the square is seen already; whom that makes suspect, one by one
  if (searchMs(pattern, texts(TEXT_LENGTH / 16)) < SUSPECT_MS) return undefined;
  const suspects = texts(TEXT_LENGTH / 16).map((text, index) => ({ index, ms: searchMs(pattern, [text]) }));
  // the worst few of them decide
  const worst = suspects.sort((a, b) => b.ms - a.ms).slice(0, 5);
  const long = texts(TEXT_LENGTH);
  return worst
    .map(({ index }) => long[index] ?? '')
    .find((text) => isSlow(pattern, text))
    ?.slice(0, 30);
}

const unique = [...Map.groupBy(allPatterns(), ({ source, flags }) => `/${source}/${flags}`)];

it('no regular expression is slow on long texts', () => {
  const slow = unique.flatMap(([written, [pattern]]) => {
    if (!pattern) return [];
    const reports = analyse(new RegExp(pattern.source, pattern.flags)).reports.map(({ type }) => type);
    const text = reports.length > 0 ? undefined : slowText(pattern);
    if (reports.length === 0 && text === undefined) return [];
    return [`${pattern.place}: ${written} (${text === undefined ? reports : JSON.stringify(text)})`];
  });
  assert.deepEqual(slow, []);
});

it('the patterns that once stopped the daemon are found', () => {
  const once = [/\r+\n/g, /\("(.*?)",pid=(\d+),fd=\d+\)/g, /^Version:[ \t]*(\S.*?)[ \t]*$/m, /\r+$/];
  for (const pattern of once) {
    const reports = analyse(pattern).reports.length;
    assert(reports > 0 || slowText(pattern) !== undefined, `${pattern} is taken for quick`);
  }
});
