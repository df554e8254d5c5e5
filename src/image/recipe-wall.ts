/** What a recipe may read of this host: what lies in its own directory, unless whoever builds it allows more. */
import { glob, realpath } from 'node:fs/promises';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { BangerError, systemCode } from '../errors.ts';
import type { Recipe } from './recipe.ts';

/** Globs are told from names by these. */
export const GLOB = /[*?[\]{}]/;

/** An OCI image in a file, and where that is. */
const OCI_FILE = /^(?:oci-archive|docker-archive|oci):([^:]{1,4096})/s;

/** Names are shown as examples; more than this many tell nothing new. */
const MAX_NAMED = 20;

/** Whether a path, links followed by the caller, is a directory or lies in it. */
function isWithin(path: string, directory: string): boolean {
  const way = relative(directory, path);
  return way === '' || !(way === '..' || way.startsWith(`..${sep}`) || isAbsolute(way));
}

/**
 * The file itself behind a name, whatever links lead to it.
 * @param within directory it must lie in; undefined for anywhere
 * @throws BangerError `invalid_input` when it lies elsewhere
 */
export async function realSource(path: string, named: string, within: string | undefined): Promise<string> {
  if (within === undefined) return path;
  const real = await realpath(path);
  const directory = await realpath(within);
  if (isWithin(real, directory)) return real;
  throw outsideError([named], within);
}

export function outsideError(names: readonly string[], directory: string): BangerError {
  const message = `The recipe reads what lies outside its directory ${directory}: ${names.join(', ')}.`;
  return new BangerError('invalid_input', message, {
    hint: 'Put it into the directory, or, if you trust the recipe with the files of this host, add --allow-outside.',
    details: { outside: [...names] },
  });
}

/** What a recipe names that lies outside of its directory, as it names it; absolute, by `..`, or by a link. */
export async function outsideNames(recipe: Recipe, directory: string): Promise<string[]> {
  const named = [
    ...recipe.package_files,
    ...recipe.extra_modules,
    ...recipe.files.map(({ source }) => source),
    ...recipe.run.flatMap((line) => (typeof line === 'string' ? [] : [line.script])),
    ...(recipe.work_disk_seed === undefined ? [] : [recipe.work_disk_seed]),
    ...(OCI_FILE.exec(recipe.base ?? '')?.slice(1) ?? []),
  ];
  const found: string[] = [];
  for (const name of new Set(named)) {
    if (found.length < MAX_NAMED && (await leadsOutside(name, directory))) found.push(name);
  }
  return found;
}

async function leadsOutside(name: string, directory: string): Promise<boolean> {
  // also where nothing is there: whether it is must not be told
  if (!isWithin(resolve(directory, name), directory)) return true;
  const real = await realpath(directory);
  const paths = GLOB.test(name) ? glob(name, { cwd: directory }) : [name];
  for await (const path of paths) {
    try {
      if (!isWithin(await realpath(resolve(directory, path)), real)) return true;
    } catch (error) {
      // what is missing is said when it is read
      if (!['ENOENT', 'ELOOP', 'EACCES', 'ENOTDIR'].includes(systemCode(error) ?? '')) throw error;
    }
  }
  return false;
}
