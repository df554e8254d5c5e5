/** The table of docs/proof.md: a line for each VMM and choice of tests, of the last run. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { formatDuration } from '../../src/units.ts';
import { count, type Outcome } from './outcome.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const DOCUMENT = join(ROOT, 'docs/proof.md');
const BEGIN = '<!-- written by make proof -->';
const END = '<!-- end -->';
/** More names would make a line nobody reads. */
const NAMED = 3;

/** The commit that is checked out; to be asked when the run begins, because the tree may be worked on during it. */
export function currentCommit(): string {
  return execFileSync('git', ['describe', '--always', '--dirty'], { cwd: ROOT, encoding: 'utf8' }).trim();
}

/** Puts a run into the table, in the place of an earlier one of the same VMM and files. */
export function writeRow(outcome: Outcome, commit: string): void {
  const date = new Date().toISOString().slice(0, 10);
  writeFileSync(DOCUMENT, withRow(readFileSync(DOCUMENT, 'utf8'), outcome, date, commit));
}

/** @throws Error when the document has lost the place of the table */
export function withRow(document: string, outcome: Outcome, date: string, commit: string): string {
  const [before, rest] = split(document, BEGIN);
  const [table, after] = split(rest, END);
  const [head = '', line = '', ...rows] = table.trim().split('\n');
  const key = [outcome.version, shownFiles(outcome.files)];
  const others = rows.filter((row) => {
    const cells = row.split('|').map((cell) => cell.trim());
    return !(cells[2] === key[0] && cells[4] === key[1]);
  });
  const row = `| ${[date, key[0], outcome.kernel, key[1], result(outcome), formatDuration(outcome.ms), commit].join(' | ')} |`;
  return `${before}${BEGIN}\n${[head, line, ...others, row].join('\n')}\n${END}${after}`;
}

function split(text: string, mark: string): [string, string] {
  const at = text.indexOf(mark);
  if (at === -1) throw new Error(`docs/proof.md has no ${mark}`);
  return [text.slice(0, at), text.slice(at + mark.length)];
}

/** Few by name, many by number. */
function shownFiles(files: readonly string[]): string {
  const names = files.map((file) => basename(file, '.test.ts'));
  return names.length <= NAMED ? names.join(', ') : `${names.length} files`;
}

function result(outcome: Outcome): string {
  const failed = count(outcome, 'failed');
  const parts = [`${count(outcome, 'passed')} passed`];
  if (failed > 0) parts.push(`${failed} failed`);
  const skipped = count(outcome, 'skipped');
  if (skipped > 0) parts.push(`${skipped} skipped`);
  if (outcome.repeats.length > 0) parts.push(`${outcome.repeats.length} files repeated`);
  return parts.join(', ');
}
