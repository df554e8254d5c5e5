/** Configuration from all its places: built-in values, files, `BANGER_*` variables, flags; the last one wins. */
import { BangerError, messageOf } from '../errors.ts';
import { type ConfigFile, type ConfigProblem, type FileContent, readConfigFile } from './files.ts';
import { nearest } from './nearest.ts';
import { type Paths, resolvePaths } from './paths.ts';
import type { Config } from './schema.ts';
import { assembleConfig, listSettings, type Setting, variableOf } from './settings.ts';

export interface ConfigSources {
  env: NodeJS.ProcessEnv;
  /** effective user id */
  uid: number;
  /** values given on the command line, by key, e.g. `{ 'vm.memory': '2GiB' }` */
  flags?: Readonly<Record<string, string>>;
  /** `process.arch`; the default */
  arch?: string;
}

/** Where a value comes from. */
export interface Origin {
  source: 'built-in' | 'file' | 'environment' | 'flag';
  /** the file or the variable */
  where?: string;
}

export interface LoadedConfig {
  config: Config;
  /** origin of each setting by key, except of those that are unset */
  origins: ReadonlyMap<string, Origin>;
  /** every file looked for, in reading order */
  files: ConfigFile[];
  /** what is probably not meant but does no harm */
  warnings: string[];
}

/** All that was found, right or wrong. */
export interface ExaminedConfig extends LoadedConfig {
  problems: ConfigProblem[];
}

/**
 * Variables with our prefix that are no settings: read elsewhere, or set by banger itself, `BANGER_EXEC` by an older one for
 * what its `exec` runs in a VM.
 */
const OTHER_VARIABLES = new Set(['BANGER_HOME', 'BANGER_LOG', 'BANGER_ON_DEMAND', 'BANGER_EXEC']);

/**
 * Reads configuration.
 * @throws BangerError `invalid_input` with every problem, each with file, line and caret where it has one;
 *   `details.problems` carries them
 */
export async function loadConfig(sources: ConfigSources): Promise<LoadedConfig> {
  const { problems, ...loaded } = await examineConfig(sources);
  if (problems.length === 0) return loaded;
  throw new BangerError('invalid_input', problems.map(formatProblem).join('\n'), {
    hint: 'Correct it, then look again with: banger config check',
    details: { problems },
  });
}

/** Reads configuration without stopping at what is wrong; a wrong value counts as not given. */
export async function examineConfig(sources: ConfigSources): Promise<ExaminedConfig> {
  const { env, uid, flags = {}, arch = process.arch } = sources;
  const paths = resolvePaths(env, uid);
  const contents = await readFiles(paths, sources);
  const layers = [...contents.map(fileLayer), environmentLayer(env), flagLayer(flags)];
  const problems = [...contents.flatMap((content) => content.problems), ...unknownFlags(flags)];
  const origins = new Map<string, Origin>();
  const decided = new Map<string, unknown>();

  for (const setting of listSettings()) {
    for (const layer of layers.filter(({ values }) => values.has(setting.key))) {
      try {
        decided.set(setting.key, setting.kind.read(layer.values.get(setting.key), { home: env.HOME }));
        origins.set(setting.key, { source: layer.source, where: layer.where(setting.key) });
      } catch (error) {
        problems.push(await wrongValue(layer, setting, error));
      }
    }
    const builtIn = decided.has(setting.key) ? undefined : setting.builtIn({ paths, arch, decided });
    if (builtIn === undefined) continue;
    decided.set(setting.key, builtIn);
    origins.set(setting.key, { source: 'built-in' });
  }
  return {
    config: assembleConfig(decided),
    origins,
    files: contents.map((content) => content.file),
    warnings: [...contents.flatMap((content) => content.warnings), ...unknownVariables(env)],
    problems,
  };
}

/** A problem as `file:line:column: message` with the line and its caret below. */
export function formatProblem({ where, line, column, message, excerpt }: ConfigProblem): string {
  const position = line === undefined ? '' : `:${line}:${column}`;
  return `${where}${position}: ${message}${excerpt === undefined ? '' : `\n${excerpt}`}`;
}

/** One place values come from. */
interface Layer {
  source: Exclude<Origin['source'], 'built-in'>;
  /** raw values by key */
  values: ReadonlyMap<string, unknown>;
  /** what a person would look for to change the value of a key */
  where(key: string): string;
  /** the text to point into, in files */
  text?: string;
}

async function readFiles(paths: Paths, { env, uid }: ConfigSources): Promise<FileContent[]> {
  // who names a directory with BANGER_HOME has chosen its files; the usual places are only trusted by owner
  const trusted = uid === 0 && !env.BANGER_HOME ? { trustedOwner: uid } : {};
  return await Promise.all(paths.configFiles.map((path) => readConfigFile(path, trusted)));
}

function fileLayer({ file, values }: FileContent): Layer {
  return { source: 'file', values, where: () => file.path, text: file.text };
}

function environmentLayer(env: NodeJS.ProcessEnv): Layer {
  const values = new Map<string, unknown>();
  for (const { key } of listSettings()) {
    const value = env[variableOf(key)];
    if (value !== undefined && value !== '') values.set(key, value);
  }
  return { source: 'environment', values, where: variableOf };
}

function flagLayer(flags: Readonly<Record<string, string>>): Layer {
  return { source: 'flag', values: new Map(Object.entries(flags)), where: (key) => key };
}

async function wrongValue(layer: Layer, setting: Setting<unknown>, error: unknown): Promise<ConfigProblem> {
  if (!(error instanceof BangerError)) throw error;
  const advice = error.hint === undefined ? `It takes ${setting.kind.expects}.` : error.hint;
  const problem = { where: layer.where(setting.key), message: `${setting.key}: ${messageOf(error)} ${advice}` };
  if (layer.text === undefined) return problem;
  const { excerpt, locate } = await import('./locate.ts');
  const position = locate(layer.text, setting.key.split('.'), 'value');
  return position ? { ...problem, ...position, excerpt: excerpt(layer.text, position) } : problem;
}

function unknownFlags(flags: Readonly<Record<string, string>>): ConfigProblem[] {
  const keys = listSettings().map(({ key }) => key);
  return Object.keys(flags)
    .filter((key) => !keys.includes(key))
    .map((key) => ({ where: key, message: `Unknown setting.${didYouMean(nearest(key, keys))}` }));
}

/** A mistyped variable is only warned about: others may use our prefix for purposes of their own. */
function unknownVariables(env: NodeJS.ProcessEnv): string[] {
  const known = [...OTHER_VARIABLES, ...listSettings().map(({ key }) => variableOf(key))];
  return Object.keys(env)
    .filter((name) => name.startsWith('BANGER_') && !name.startsWith('BANGER_TEST_') && !known.includes(name))
    .map((name) => `The variable ${name} is no setting and has no effect.${didYouMean(nearest(name, known))}`);
}

function didYouMean(candidate: string | undefined): string {
  return candidate === undefined ? '' : ` Did you mean ${candidate}?`;
}
