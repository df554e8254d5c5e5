/** The bundles of this banger: directories side by side, one of them the default. */
import { mkdir, readdir, readlink, rename, rm, stat, symlink } from 'node:fs/promises';
import { basename, isAbsolute, join } from 'node:path';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import { pathExists } from '../../system/files.ts';
import { restoreReplaced } from '../debian/work-dir.ts';
import { loadBundle } from './legacy-layout.ts';
import type { Bundle } from './manifest.ts';

/** A link of this name points to the bundle that is used when none is named. */
export const DEFAULT_LINK = 'default';

export interface CatalogEntry {
  name: string;
  dir: string;
  isDefault: boolean;
  /** undefined when the bundle cannot be used; then `problem` says why */
  bundle: Bundle | undefined;
  problem: string | undefined;
}

/** Every bundle in the catalog, broken ones included, sorted by name. */
export async function listBundles(catalog: string): Promise<CatalogEntry[]> {
  const chosen = await defaultName(catalog);
  const listed: CatalogEntry[] = [];
  for (const name of await bundleNames(catalog)) {
    const dir = join(catalog, name);
    const isDefault = name === chosen;
    try {
      listed.push({ name, dir, isDefault, bundle: await loadBundle(dir), problem: undefined });
    } catch (error) {
      listed.push({ name, dir, isDefault, bundle: undefined, problem: messageOf(error) });
    }
  }
  return listed;
}

/**
 * The directory of a bundle: by name in the catalog, by absolute path, or the default one when `name` is `default`. One whose
 * replacement was cut short is put back.
 * @throws BangerError `not_found` with the names there are
 */
export async function locateBundle(catalog: string, name: string = DEFAULT_LINK): Promise<string> {
  if (isAbsolute(name)) {
    if (!(await pathExists(name))) await putBack(name);
    return name;
  }
  const wanted = name === DEFAULT_LINK ? await defaultName(catalog) : name;
  const names = await bundleNames(catalog);
  if (wanted !== undefined && (names.includes(wanted) || (await isPutBack(catalog, wanted))))
    return join(catalog, wanted);
  if (name === DEFAULT_LINK) {
    throw new BangerError(
      'not_found',
      names.length === 0 ? 'There is no bundle yet.' : 'None of the bundles is the default.',
      {
        hint: names.length === 0 ? 'Make one: banger bundle build' : `Choose one: banger bundle use ${names[0]}`,
        // what a client can put right by making the first
        details: { bundles: names.length },
      },
    );
  }
  const others = names.length === 0 ? 'There are none.' : `There are: ${names.join(', ')}.`;
  throw new BangerError('not_found', `There is no bundle "${name}". ${others}`, {
    hint: names.length === 0 ? 'Make one: banger bundle build' : 'See them: banger bundle list',
  });
}

/** Loads the bundle `locateBundle` finds. */
export async function openBundle(catalog: string, name: string = DEFAULT_LINK): Promise<Bundle> {
  return await loadBundle(await locateBundle(catalog, name));
}

/**
 * Makes a bundle of the catalog the default one.
 * @throws BangerError `not_found` when there is no such bundle, `corrupt` when it cannot be used
 */
export async function useBundle(catalog: string, name: string): Promise<Bundle> {
  if (name === DEFAULT_LINK || name.includes('/')) {
    throw new BangerError('invalid_input', `"${name}" is not the name of a bundle in the catalog.`, {
      hint: 'See the names: banger bundle list',
    });
  }
  const bundle = await openBundle(catalog, name);
  const temporary = join(catalog, `.${DEFAULT_LINK}.${process.pid}`);
  await rm(temporary, { force: true });
  await symlink(name, temporary);
  await rename(temporary, join(catalog, DEFAULT_LINK));
  return bundle;
}

/** Makes the bundle the default one unless there is a default already; for the first bundle of a machine. */
export async function useFirstBundle(catalog: string, name: string): Promise<void> {
  await mkdir(catalog, { recursive: true });
  const chosen = await defaultName(catalog);
  if (chosen === undefined || !(await bundleNames(catalog)).includes(chosen)) await useBundle(catalog, name);
}

async function isPutBack(catalog: string, name: string): Promise<boolean> {
  return name === basename(name) && !name.startsWith('.') && (await putBack(join(catalog, name)));
}

/** Where nothing may be renamed the bundle stays missing, and whoever looks for it is told that. */
async function putBack(dir: string): Promise<boolean> {
  return await restoreReplaced(dir).catch(() => false);
}

/** The name the default link points to; undefined when there is none, or the link leads elsewhere. */
async function defaultName(catalog: string): Promise<string | undefined> {
  try {
    const target = await readlink(join(catalog, DEFAULT_LINK));
    return target === basename(target) ? target : undefined;
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'EINVAL') return undefined;
    throw error;
  }
}

/** Directories beginning with a dot are work in progress. */
async function bundleNames(catalog: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(catalog);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
  const found: string[] = [];
  for (const name of names.sort()) {
    if (name.startsWith('.') || name === DEFAULT_LINK) continue;
    const info = await stat(join(catalog, name)).catch(() => undefined);
    if (info?.isDirectory()) found.push(name);
  }
  return found;
}
