/** bundle.json: reading it with every path checked, and writing it. */
import { lstat, readFile, realpath, writeFile } from 'node:fs/promises';
import { isAbsolute, join, normalize, sep } from 'node:path';
import type { z } from 'zod';
import { isVast } from '../../core/json-size.ts';
import { BangerError, systemCode } from '../../errors.ts';
import type { BundleManifest as ManifestSchema } from './manifest-schema.ts';

export type BundleManifest = z.output<typeof ManifestSchema>;
export type BundleDefaults = BundleManifest['defaults'];
export type BundleArch = BundleManifest['arch'];

export const MANIFEST_FILE = 'bundle.json';

/** What a VM of a bundle that says nothing else gets. */
export const STANDARD_DEFAULTS: BundleDefaults = {
  vcpus: 1,
  memoryMib: 512,
  bootArgs: '',
  rootDiskSize: '4GiB',
  workDiskSize: '8GiB',
};

/** What a directory must hold to boot VMs, every path absolute and checked to lie in it. */
export interface Bundle {
  dir: string;
  manifest: BundleManifest;
  kernel: string;
  initrd: string;
  rootfs: string;
  /** module tree, `…/RELEASE` */
  modules: string | undefined;
  /** package manifest of the root */
  packages: string | undefined;
  helpers: string[];
  /** whether bundle.json was missing and the file names were guessed */
  legacy: boolean;
  /** what the user should know about it, with the command that settles it */
  notice: string | undefined;
}

/** A manifest is a few KiB and 80 bytes for each 64 MiB of data; anything larger is not one. */
const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;

/**
 * Reads a directory's bundle.json and checks that what it names is there, in the sizes it says.
 * @throws BangerError `not_found` when there is no bundle.json
 * @throws BangerError `corrupt` with the file and field that are wrong
 */
export async function readBundle(dir: string): Promise<Bundle> {
  const manifest = await readManifest(join(dir, MANIFEST_FILE));
  return await resolveBundle(dir, manifest);
}

/** Reads and validates one bundle.json, without looking at the files it names. */
export async function readManifest(path: string): Promise<BundleManifest> {
  return await parseManifest(await readText(path), path);
}

/**
 * A manifest out of the text of a bundle.json; `path` is for messages.
 * @throws BangerError `corrupt`
 */
export async function parseManifest(text: string, path: string): Promise<BundleManifest> {
  const { BundleManifest, READ_VERSIONS, SCHEMA_VERSION, manifestProblems } = await import('./manifest-schema.ts');
  if (isVast(text)) throw new BangerError('corrupt', `${path} has more values in it than any.`, { hint: REBUILD_HINT });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new BangerError('corrupt', `${path} is not JSON.`, { cause: error, hint: REBUILD_HINT });
  }
  const version = typeof value === 'object' && value !== null && 'schema' in value ? value.schema : undefined;
  if (typeof version === 'number' && !READ_VERSIONS.some((known) => known === version)) {
    throw new BangerError(
      'corrupt',
      `${path} has schema version ${version}; this banger reads version ${READ_VERSIONS.join(' or ')}.`,
      {
        hint: version > SCHEMA_VERSION ? 'Install a newer banger.' : REBUILD_HINT,
      },
    );
  }
  const parsed = BundleManifest.safeParse(value);
  if (!parsed.success) {
    throw new BangerError('corrupt', `${path}: ${manifestProblems(parsed.error).join('; ')}.`, { hint: REBUILD_HINT });
  }
  for (const [field, named] of namedPaths(parsed.data)) checkRelative(path, field, named);
  return parsed.data;
}

/**
 * Writes a bundle.json after validating it.
 * @throws BangerError `corrupt` when the manifest is not valid
 */
export async function writeManifest(dir: string, manifest: BundleManifest): Promise<void> {
  const path = join(dir, MANIFEST_FILE);
  const text = `${JSON.stringify(manifest, null, 2)}\n`;
  await parseManifest(text, path);
  await writeFile(path, text);
}

/**
 * A manifest's paths made absolute: each must exist, lie inside the bundle through every link, and have its size.
 * @throws BangerError `corrupt` with the field
 */
export async function resolveBundle(dir: string, manifest: BundleManifest): Promise<Bundle> {
  const file = join(dir, MANIFEST_FILE);
  const base = await realpath(dir);
  const resolved = new Map<string, string>();
  for (const [field, named] of namedPaths(manifest)) {
    resolved.set(field, await resolveInside(file, field, base, named, field === 'modules' ? 'directory' : 'file'));
  }
  for (const [named, sum] of Object.entries(manifest.files)) {
    const { size } = await lstat(await resolveInside(file, `files.${named}`, base, named, 'file'));
    if (size !== sum.size) {
      throw new BangerError('corrupt', `${file}: "${named}" has ${size} bytes instead of ${sum.size}.`, {
        hint: REBUILD_HINT,
      });
    }
  }
  const path = (field: string) => resolved.get(field) ?? join(base, field);
  return {
    dir,
    manifest,
    kernel: path('kernel'),
    initrd: path('initrd'),
    rootfs: path('rootfs'),
    modules: resolved.get('modules'),
    packages: resolved.get('packages'),
    helpers: manifest.helpers.map((_, index) => path(`helpers.${index}`)),
    legacy: false,
    notice: undefined,
  };
}

const REBUILD_HINT = 'Make the bundle again: banger bundle build, or import it again.';

/** Every path a manifest names, with the field that names it. */
function namedPaths(manifest: BundleManifest): [string, string][] {
  const { kernel, initrd, rootfs, modules, packages, helpers } = manifest;
  const paths: [string, string | undefined][] = [
    ['kernel', kernel],
    ['initrd', initrd],
    ['rootfs', rootfs],
    ['modules', modules],
    ['packages', packages],
    ...helpers.map((helper, index): [string, string] => [`helpers.${index}`, helper]),
    ...Object.keys(manifest.files).map((named): [string, string] => [`files.${named}`, named]),
    ...Object.keys(manifest.trees).map((named): [string, string] => [`trees.${named}`, named]),
  ];
  return paths.filter((entry): entry is [string, string] => entry[1] !== undefined);
}

function checkRelative(file: string, field: string, named: string): void {
  const problem = isAbsolute(named)
    ? 'is absolute'
    : named.includes('\0') || named.split('/').includes('..') || normalize(named) === '.'
      ? 'leads out of the bundle'
      : undefined;
  if (problem === undefined) return;
  throw new BangerError('corrupt', `${file}: field "${field}": the path ${JSON.stringify(named)} ${problem}.`, {
    hint: 'Paths in bundle.json are relative to its directory.',
  });
}

async function resolveInside(
  file: string,
  field: string,
  base: string,
  named: string,
  kind: 'file' | 'directory',
): Promise<string> {
  const fail = (what: string, cause?: unknown) =>
    new BangerError('corrupt', `${file}: field "${field}": ${JSON.stringify(named)} ${what}.`, {
      cause,
      hint: REBUILD_HINT,
    });
  let real: string;
  try {
    real = await realpath(join(base, named));
  } catch (error) {
    throw fail(systemCode(error) === 'ENOENT' ? 'does not exist' : `cannot be read (${systemCode(error)})`, error);
  }
  if (real !== base && !real.startsWith(base + sep)) throw fail(`is a link to ${real}, outside the bundle`);
  const info = await lstat(real);
  const matches = kind === 'directory' || field.startsWith('trees.') ? info.isDirectory() : info.isFile();
  if (!matches) throw fail(`is no ${kind === 'file' ? 'regular file' : 'directory'}`);
  return real;
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await lstat(path);
    if (size > MAX_MANIFEST_BYTES)
      throw new BangerError('corrupt', `${path} is too large to be a bundle's description.`);
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof BangerError) throw error;
    if (systemCode(error) === 'ENOENT') {
      throw new BangerError('not_found', `There is no bundle at ${path}.`, {
        cause: error,
        hint: 'Make one: banger bundle build',
      });
    }
    throw new BangerError('corrupt', `${path} cannot be read (${systemCode(error)}).`, { cause: error });
  }
}
