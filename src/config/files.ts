/** One configuration file: read, parsed, and taken apart into settings and problems. */
import { readFile, stat } from 'node:fs/promises';
import { messageOf, systemCode } from '../errors.ts';
import { nearest } from './nearest.ts';
import { listSettings, variableOf } from './settings.ts';

export interface ConfigFile {
  path: string;
  exists: boolean;
  /** its content; empty when it does not exist or could not be read */
  text: string;
}

/** Something wrong in one of the places configuration comes from. */
export interface ConfigProblem {
  /** file path, variable or flag */
  where: string;
  /** from 1; only in files */
  line?: number;
  /** from 1; only in files */
  column?: number;
  message: string;
  /** the line with a caret below the place */
  excerpt?: string;
}

/** What a file says: raw values by key, and what is wrong with it. */
export interface FileContent {
  file: ConfigFile;
  values: Map<string, unknown>;
  problems: ConfigProblem[];
  warnings: string[];
}

export interface ReadFileOptions {
  /** the file is ignored, with a warning, when neither root nor this user owns it */
  trustedOwner?: number;
}

/** Reads a file; one that does not exist is empty. Nothing is thrown: what is wrong is in `problems`. */
export async function readConfigFile(path: string, options: ReadFileOptions = {}): Promise<FileContent> {
  const content: FileContent = {
    file: { path, exists: true, text: '' },
    values: new Map(),
    problems: [],
    warnings: [],
  };
  try {
    const seen = await stat(path);
    if (!seen.isFile()) {
      const what = seen.isDirectory() ? 'a directory' : 'not a regular file';
      content.problems.push({ where: path, message: `This is ${what}; banger expects its configuration file here.` });
      return content;
    }
    if (options.trustedOwner !== undefined && seen.uid !== 0 && seen.uid !== options.trustedOwner) {
      content.warnings.push(`${path} is ignored: user ${seen.uid} owns it, who could then decide what root runs.`);
      return content;
    }
    content.file.text = new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path));
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') content.file.exists = false;
    else content.problems.push({ where: path, message: unreadable(error) });
    return content;
  }
  await parseInto(content);
  return content;
}

function unreadable(error: unknown): string {
  const code = systemCode(error);
  if (code === 'EACCES' || code === 'EPERM') return 'This user may not read the file.';
  if (code === 'ERR_ENCODING_INVALID_ENCODED_DATA') return 'The file is not UTF-8 text.';
  return `The file cannot be read: ${messageOf(error)}`;
}

async function parseInto(content: FileContent): Promise<void> {
  const { path, text } = content.file;
  if (text.trim() === '') return;
  const { parse, TomlError } = await import('smol-toml');
  let document: Record<string, unknown>;
  try {
    document = parse(text, { unsafeKeyBehaviour: 'throw' });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const message = messageOf(error).split('\n')[0]?.replace('Invalid TOML document: ', '') ?? '';
    content.problems.push({
      where: path,
      line: error.line,
      column: error.column,
      message: syntaxMessage(message),
      excerpt: error.codeblock.trimEnd(),
    });
    return;
  }
  const { excerpt, locate } = await import('./locate.ts');
  const report = (keyPath: string[], message: string) => {
    const position = locate(text, keyPath);
    content.problems.push({
      where: path,
      ...(position ? { ...position, excerpt: excerpt(text, position) } : {}),
      message,
    });
  };
  collectValues(document, [], content.values, report);
}

function syntaxMessage(parserSays: string): string {
  if (parserSays.includes('redefine')) return 'This key or section is already set above; TOML allows it once.';
  return `This is not valid TOML: ${parserSays}.`;
}

type Report = (keyPath: string[], message: string) => void;

function collectValues(table: object, above: string[], values: Map<string, unknown>, report: Report): void {
  const settings = listSettings();
  for (const [name, value] of Object.entries(table)) {
    const path = [...above, name];
    // a quoted "vm.memory" is one key with a dot in it, not the key memory of the section vm
    const key = name.includes('.') ? undefined : path.join('.');
    const setting = settings.find((candidate) => candidate.key === key);
    if (setting?.environmentOnly) {
      report(path, `"${setting.key}" cannot be set in a file; set the variable ${variableOf(setting.key)} instead.`);
    } else if (setting) {
      values.set(setting.key, value);
    } else if (key === undefined || !settings.some((candidate) => candidate.key.startsWith(`${key}.`))) {
      report(path, unknownKey(path));
    } else if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Date) {
      report(path, `"${key}" is a section of settings, not a value.`);
    } else {
      collectValues(value, path, values, report);
    }
  }
}

/** Compares with the keys of the same section first: that is where most slips are. */
function unknownKey(path: string[]): string {
  const keys = listSettings().map((setting) => setting.key);
  const section = path.slice(0, -1).join('.');
  const name = path.at(-1) ?? '';
  const depth = path.length;
  const siblings = new Set(
    keys
      .filter((key) => section === '' || key.startsWith(`${section}.`))
      .map((key) => key.split('.')[depth - 1])
      .filter((part) => part !== undefined),
  );
  const sibling = nearest(name, siblings);
  const meant = sibling === undefined ? elsewhere(name, keys) : [...path.slice(0, -1), sibling].join('.');
  return `Unknown key "${path.join('.')}".${meant === undefined ? '' : ` Did you mean "${meant}"?`}`;
}

/** A key of that name in another section, or the dotted key that was put in quotes. */
function elsewhere(name: string, keys: string[]): string | undefined {
  return nearest(name, keys) ?? keys.find((key) => key.split('.').at(-1) === name);
}
