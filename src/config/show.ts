/** What `banger config show` and `banger config check` say. */
import type { ConfigProblem } from './files.ts';
import { type ConfigSources, examineConfig, type LoadedConfig } from './load.ts';
import { locate } from './locate.ts';
import { type VmConfig, vmDefaults } from './schema.ts';
import { placedSettings, variableOf } from './settings.ts';

export interface ShownSetting {
  key: string;
  /** as TOML writes it; null when it is unset */
  value: string | null;
  source: 'built-in' | 'bundle' | 'file' | 'environment' | 'flag' | 'unset';
  /** `file:line`, variable or flag it comes from */
  where: string | null;
  /** the variable that would set it */
  variable: string;
  about: string;
}

/**
 * Every setting with its value and where that comes from.
 * @param bundleDefaults defaults of the bundle in use, when one is there
 */
export function showConfig(loaded: LoadedConfig, bundleDefaults: VmConfig = {}): ShownSetting[] {
  const effective = { ...loaded.config, vm: vmDefaults(loaded.config, bundleDefaults) };
  return placedSettings().map(({ path, setting }) => {
    const value = valueAt(effective, path);
    const origin = loaded.origins.get(setting.key);
    const ofBundle = valueAt({ vm: bundleDefaults }, path) !== undefined;
    const unconfigured = value === undefined ? 'unset' : ofBundle ? 'bundle' : 'built-in';
    return {
      key: setting.key,
      value: value === undefined ? null : setting.kind.write(value),
      source: origin?.source ?? unconfigured,
      where: origin?.where === undefined ? null : withLine(loaded, setting.key, origin.where),
      variable: variableOf(setting.key),
      about: setting.about,
    };
  });
}

export interface ConfigReport {
  files: { path: string; exists: boolean }[];
  problems: ConfigProblem[];
  warnings: string[];
}

/** Looks at everything configuration comes from; `problems` is empty when banger would run with it. */
export async function checkConfig(sources: ConfigSources): Promise<ConfigReport> {
  const { files, problems, warnings } = await examineConfig(sources);
  return { files: files.map(({ path, exists }) => ({ path, exists })), problems, warnings };
}

function withLine({ files }: LoadedConfig, key: string, where: string): string {
  const file = files.find(({ path }) => path === where);
  const position = file && locate(file.text, key.split('.'));
  return position ? `${where}:${position.line}` : where;
}

function valueAt(node: unknown, path: readonly string[]): NonNullable<unknown> | undefined {
  let value = node;
  for (const name of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value ?? undefined;
}
