/** Recipes of images: read from TOML, checked against the schema that is published as docs/recipe.schema.json. */
import { parse as parseToml, TomlError } from 'smol-toml';
import { z } from 'zod';
import { BangerError } from '../errors.ts';
import { MIB, parseDuration, parseSize } from '../units.ts';

/** Names as every package manager takes them, optionally with `=version`; an option must not be smuggled in. */
export const PACKAGE_NAME = /^[A-Za-z0-9][A-Za-z0-9+._:@/~-]*(=[A-Za-z0-9][A-Za-z0-9.+:~_-]*)?$/;

const readable = (read: (text: string) => number, what: string) =>
  z.string().refine(
    (text) => {
      try {
        return read(text) > 0;
      } catch {
        return false;
      }
    },
    { message: `is not ${what}` },
  );

const guestPath = z
  .string()
  .regex(/^\/[^\0]*$/, 'must be an absolute path in the guest')
  .refine((path) => !path.split('/').includes('..'), { message: 'must not contain ..' });

const packageName = z.string().regex(PACKAGE_NAME, 'is no package name');

const runLine = z.union([
  z.string().min(1).describe('line for /bin/sh, ended at the first command that fails'),
  z.strictObject({
    script: z.string().min(1).describe('script file, relative to the recipe; its first line says with what'),
  }),
]);

const fileEntry = z.strictObject({
  source: z.string().min(1).describe('file, directory or glob, relative to the recipe'),
  target: guestPath.describe('path in the guest; a directory when it ends with / or the source is a glob'),
  owner: z
    .string()
    .regex(/^[a-z_0-9][a-z0-9_-]*(:[a-z_0-9][a-z0-9_-]*)?$/i, 'must be USER or USER:GROUP')
    .default('root:root')
    .describe('names or numbers'),
  mode: z
    .string()
    .regex(/^[0-7]{3,4}$/, 'must be octal, as 0644')
    .optional()
    .describe("octal; default the file's own"),
});

const RecipeSchema = z
  .strictObject({
    name: z
      .string()
      .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a DNS label: a-z, 0-9 and inner dashes')
      .optional()
      .describe('name of the image; the file name without its ending when it is missing'),
    base: z
      .string()
      .min(1)
      .optional()
      .describe('image, bundle, or OCI image such as docker.io/library/alpine:3.20; default the default bundle'),
    size: readable(parseSize, 'a size such as 4GiB').optional().describe("size of the root disk; default the base's"),
    packages: z.array(packageName).default([]).describe('packages to install, NAME or NAME=VERSION'),
    package_files: z.array(z.string().min(1)).default([]).describe('files that list packages, one a line'),
    modules: z.boolean().default(false).describe("whether the bundle's tree of kernel modules is put in"),
    extra_modules: z.array(z.string().min(1)).default([]).describe('further kernel modules (.ko files or globs)'),
    files: z.array(fileEntry).default([]),
    env: z
      .record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'is no name of a variable'), z.string())
      .default({})
      .describe('environment of packages and run lines; of it only the names are kept with the image'),
    user: z
      .string()
      .regex(/^[a-z_][a-z0-9_-]*$/, 'is no user name')
      .default('root')
      .describe('who runs the run lines'),
    run: z.array(runLine).default([]).describe('what is run after packages and files are in place, a layer each'),
    // a step that hangs ends some time; half an hour is more than any package takes where nothing is emulated
    run_timeout: readable(parseDuration, 'a duration such as 30m').default('30m').describe('limit of each step'),
    work_disk_seed: z
      .string()
      .min(1)
      .optional()
      .describe("directory whose content a new work disk's /root starts with"),
    keep_caches: z.boolean().default(false).describe("whether the package manager's lists and caches stay"),
    vcpus: z.int().min(1).max(32).default(1).describe('processors of the temporary VM'),
    memory: readable(parseSize, 'a size such as 1GiB').default('1GiB').describe('memory of the temporary VM'),
  })
  .describe('A recipe of banger image build.');

export type Recipe = z.output<typeof RecipeSchema>;
export type FileEntry = Recipe['files'][number];

/** Values laid over a recipe, by the recipe's own keys. */
export type RecipeValues = Record<string, unknown>;

/**
 * Reads the TOML of a recipe, unchecked; `path` is for messages.
 * @throws BangerError `invalid_input` with the line of the mistake
 */
export function readToml(text: string, path: string): RecipeValues {
  try {
    return parseToml(text, { unsafeKeyBehaviour: 'throw' });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new BangerError('invalid_input', `${path}, line ${error.line}: ${error.message.split('\n')[0]}.`, {
      cause: error,
      hint: 'See how a recipe is written: banger image validate --help',
    });
  }
}

/**
 * A recipe out of what was read and laid over it; `path` is for messages.
 * @throws BangerError `invalid_input` with every wrong field
 */
export function checkRecipe(raw: unknown, path: string): Recipe {
  const parsed = RecipeSchema.safeParse(raw);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => describeIssue(issue, raw));
    throw new BangerError('invalid_input', `${path}: ${problems.join('; ')}.`, {
      hint: `The keys are: ${Object.keys(RecipeSchema.shape).join(' ')}`,
    });
  }
  if (parseSize(parsed.data.memory) % MIB !== 0) {
    throw new BangerError('invalid_input', `${path}: memory is no whole number of MiB.`, { hint: 'memory = "1GiB"' });
  }
  return parsed.data;
}

/**
 * `key=value` texts of `--set` laid over what a recipe says: the value is TOML where it reads as TOML, a text otherwise.
 * @throws BangerError `invalid_input` for a text without `=` or a key below one that holds no table
 */
export function applySettings(raw: RecipeValues, settings: readonly string[]): RecipeValues {
  const result = structuredClone(raw);
  for (const setting of settings) {
    const [, path, text] = /^([A-Za-z_][\w.]*)=(.*)$/s.exec(setting) ?? [];
    if (path === undefined || text === undefined) {
      throw new BangerError('invalid_input', `--set ${setting}: this is no key=value.`, { hint: '--set size=4GiB' });
    }
    const keys = path.split('.');
    // every object has these already, and they are not its own
    const inherited = keys.find((key) => key in Object.prototype);
    if (inherited !== undefined) {
      throw new BangerError('invalid_input', `--set ${setting}: ${inherited} is no key.`, { hint: '--set size=4GiB' });
    }
    let table = result;
    for (const key of keys.slice(0, -1)) {
      table[key] ??= {};
      const below = table[key];
      if (typeof below !== 'object' || below === null || Array.isArray(below)) {
        throw new BangerError('invalid_input', `--set ${setting}: ${key} holds no table.`);
      }
      table = below as RecipeValues;
    }
    table[keys.at(-1) ?? path] = tomlValue(text);
  }
  return result;
}

/** The published JSON Schema of recipes. */
export function recipeJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(RecipeSchema, { io: 'input' }), title: 'image recipe' };
}

function tomlValue(text: string): unknown {
  try {
    return parseToml(`value = ${text}`, { unsafeKeyBehaviour: 'throw' }).value;
  } catch {
    return text;
  }
}

function describeIssue(issue: z.core.$ZodIssue, raw: unknown): string {
  if (issue.code === 'unrecognized_keys') {
    const where = issue.path.length > 0 ? ` in ${issue.path.join('.')}` : '';
    return `unknown key${issue.keys.length > 1 ? 's' : ''} ${issue.keys.join(', ')}${where}`;
  }
  const value = issue.path.reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? (at as Record<PropertyKey, unknown>)[key] : undefined),
    raw,
  );
  // what is in an environment may be secret
  const shown = typeof value === 'string' && issue.path[0] !== 'env' ? ` ("${value}")` : '';
  return `${issue.path.join('.')}${shown} ${issue.message.replace(/^Invalid input: /, '')}`;
}
