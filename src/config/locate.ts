/** Where in a TOML text a key stands, for messages that point at it. */
import { parse } from 'smol-toml';

export interface Position {
  /** from 1 */
  line: number;
  /** from 1 */
  column: number;
}

/**
 * Position of a key, or of the value behind it, in a text that is valid TOML.
 *
 * The parser tells no positions, so the text is parsed line by line longer: the statement that ends where
 * the key first exists is the one that sets it. Only done for a message, and configuration is short.
 */
export function locate(text: string, path: readonly string[], what: 'key' | 'value' = 'key'): Position | undefined {
  const lines = text.split('\n');
  let statementStart = 0;
  for (let end = 1; end <= lines.length; end++) {
    const document = parseOrUndefined(lines.slice(0, end).join('\n'));
    if (document === undefined) continue; // inside a statement of several lines
    if (has(document, path)) return findInStatement(lines, statementStart, end, path.at(-1) ?? '', what);
    statementStart = end;
  }
  return undefined;
}

/** The line of a text with a caret below a column. */
export function excerpt(text: string, { line, column }: Position): string {
  const prefix = `${line}:  `;
  const content = (text.split('\n')[line - 1] ?? '').replace(/\r$/, '');
  const indent = content.slice(0, column - 1).replace(/[^\t]/g, ' ');
  return `${prefix}${content}\n${' '.repeat(prefix.length)}${indent}^`;
}

function findInStatement(lines: string[], start: number, end: number, name: string, what: 'key' | 'value'): Position {
  const key = new RegExp(`(?<![\\w-])(["']?)${name.replace(/[^\w]/g, '\\$&')}\\1(?![\\w-])`, 'd');
  for (let index = start; index < end; index++) {
    const line = lines[index] ?? '';
    const match = key.exec(line);
    if (!match) continue;
    const afterKey = match.index + match[0].length;
    const value = /^[^=]*=\s*/.exec(line.slice(afterKey));
    const column = what === 'value' && value ? afterKey + value[0].length : match.index;
    return { line: index + 1, column: column + 1 };
  }
  return { line: start + 1, column: 1 };
}

function parseOrUndefined(text: string): Record<string, unknown> | undefined {
  try {
    return parse(text);
  } catch {
    return undefined;
  }
}

function has(document: unknown, path: readonly string[]): boolean {
  let node = document;
  for (const name of path) {
    if (typeof node !== 'object' || node === null || !Object.hasOwn(node, name)) return false;
    node = (node as Record<string, unknown>)[name];
  }
  return true;
}
