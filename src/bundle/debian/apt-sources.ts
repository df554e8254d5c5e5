/** The host's own package sources, read in both of apt's formats and turned to another suite. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BangerError, systemCode } from '../../errors.ts';

/** One stanza of deb822 fields, e.g. `Types`, `URIs`, `Suites`; names as apt spells them. */
export type SourceStanza = Map<string, string>;

export interface SourceFiles {
  /** one-line file, absent on newer hosts */
  list: string;
  /** directory of `*.list` and `*.sources` files */
  parts: string;
}

/** Names under which a host may follow its own release instead of by codename. */
const RELEASE_ALIASES = new Set(['stable', 'oldstable', 'testing', 'unstable', 'sid']);

/** What Debian appends to a release's name for its own side archives that every system uses. */
const SIDE_ARCHIVES = ['', '-updates', '-security', '/updates'];

/** Releases without point releases have neither updates nor security archives. */
const ROLLING = new Set(['unstable', 'sid']);

/** Fields of a stanza whose one-line option has another name than the field in lower case. */
const OPTION_FIELDS: Record<string, string> = {
  arch: 'Architectures',
  lang: 'Languages',
  target: 'Targets',
  pdiffs: 'PDiffs',
};

/** Every enabled binary source of the host; a missing file or directory has none. */
export async function readSources(files: SourceFiles): Promise<SourceStanza[]> {
  const stanzas = parseOneLine(await readIfThere(files.list));
  for (const name of (await listIfThere(files.parts)).sort()) {
    // apt reads no other names, and dots elsewhere in the name disable a file
    if (!/^[\w-]+(\.[\w-]+)*\.(list|sources)$/.test(name)) continue;
    const text = await readIfThere(join(files.parts, name));
    stanzas.push(...(name.endsWith('.list') ? parseOneLine(text) : parseDeb822(text)));
  }
  return stanzas;
}

/** Stanzas of a `*.sources` file (sources.list(5), deb822 format) that hold binary packages and are enabled. */
export function parseDeb822(text: string): SourceStanza[] {
  const stanzas: SourceStanza[] = [];
  let fields: SourceStanza = new Map();
  let last: string | undefined;
  const finish = () => {
    if (fields.size > 0 && isBinary(fields) && field(fields, 'Enabled').toLowerCase() !== 'no') stanzas.push(fields);
    fields = new Map();
    last = undefined;
  };
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) continue;
    if (line.trim() === '') {
      finish();
    } else if (/^\s/.test(line) && last !== undefined) {
      fields.set(last, `${fields.get(last) ?? ''}\n${line}`);
    } else {
      const colon = line.indexOf(':');
      if (colon <= 0) continue;
      last = canonicalName(fields, line.slice(0, colon).trim());
      fields.set(last, line.slice(colon + 1).trim());
    }
  }
  finish();
  return stanzas;
}

/** Entries of a `sources.list` (sources.list(5), one-line format), as stanzas. */
export function parseOneLine(text: string): SourceStanza[] {
  const stanzas: SourceStanza[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)/.exec(line);
    if (!match) continue;
    const [, options = '', uri = '', suite = '', components = ''] = match;
    const stanza: SourceStanza = new Map([
      ['Types', 'deb'],
      ['URIs', uri],
      ['Suites', suite],
      ['Components', components.trim()],
    ]);
    for (const option of options.split(/\s+/)) {
      const equals = option.indexOf('=');
      if (equals <= 0) continue;
      const name = option.slice(0, equals);
      const field = Object.hasOwn(OPTION_FIELDS, name) ? OPTION_FIELDS[name] : undefined;
      stanza.set(field ?? titleCase(name), option.slice(equals + 1).replaceAll(',', ' '));
    }
    stanzas.push(stanza);
  }
  return stanzas;
}

/**
 * The sources that follow the host's own release, turned to `suite`.
 * Sources of other vendors name other suites or lack the component `main` and stay out.
 * @throws BangerError `host_unprepared` when no source is left
 */
export function sourcesForSuite(stanzas: SourceStanza[], hostCodename: string, suite: string): SourceStanza[] {
  const bases = new Set([hostCodename, suite, ...RELEASE_ALIASES]);
  const turned: SourceStanza[] = [];
  for (const stanza of stanzas) {
    if (!words(field(stanza, 'Components')).includes('main')) continue;
    const suites = words(field(stanza, 'Suites'))
      .map((name) => turnSuite(name, bases, suite))
      .filter((name) => name !== undefined);
    if (suites.length === 0) continue;
    const copy = new Map(stanza);
    copy.set('Types', 'deb');
    copy.set('Suites', [...new Set(suites)].join(' '));
    copy.delete('Enabled');
    turned.push(copy);
  }
  if (turned.length === 0) {
    throw new BangerError('host_unprepared', `The host's apt sources name no Debian archive for "${suite}".`, {
      hint: 'Build the bundle on a Debian machine, then: banger bundle export there, banger bundle import here.',
    });
  }
  return turned;
}

/** Stanzas as the text of a `*.sources` file. */
export function formatSources(stanzas: SourceStanza[]): string {
  return stanzas.map((stanza) => [...stanza].map(([name, value]) => `${name}: ${value}\n`).join('')).join('\n');
}

function turnSuite(name: string, bases: Set<string>, suite: string): string | undefined {
  const side = SIDE_ARCHIVES.find((end) => name.endsWith(end) && bases.has(name.slice(0, name.length - end.length)));
  // the empty ending matches every name, so a side archive has to be looked for first
  const ending = SIDE_ARCHIVES.slice(1).find((end) => name.endsWith(end)) ?? side;
  if (ending === undefined || !bases.has(name.slice(0, name.length - ending.length))) return undefined;
  if (ending === '') return suite;
  return ROLLING.has(suite) ? undefined : `${suite}${ending}`;
}

function isBinary(stanza: SourceStanza): boolean {
  return words(field(stanza, 'Types')).includes('deb');
}

function field(stanza: SourceStanza, name: string): string {
  return stanza.get(name) ?? '';
}

/** Field names are compared without regard to case; the first spelling of the known ones is apt's own. */
function canonicalName(fields: SourceStanza, name: string): string {
  const known = ['Types', 'URIs', 'Suites', 'Components', 'Enabled', 'Signed-By', ...fields.keys()];
  return known.find((candidate) => candidate.toLowerCase() === name.toLowerCase()) ?? name;
}

function titleCase(name: string): string {
  return name.replace(/(^|-)[a-z]/g, (start) => start.toUpperCase());
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

async function readIfThere(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return '';
    throw error;
  }
}

async function listIfThere(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}
