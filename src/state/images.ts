/** Images in SQLite: what a person named, with where it came from; its files lie in the store. */
import { keptRecipe, recordedRecipe } from '../core/kept-recipe.ts';
import { BangerError } from '../errors.ts';
import { type Database, inTransaction } from './database.ts';

export interface ImageRecord {
  /** 8 hexadecimal digits, unchanged for the life of the image */
  id: string;
  /** DNS label, unique */
  name: string;
  /** `x86_64` or `aarch64`, as bundles say it */
  arch: string;
  /** image or bundle it was made from; `import` for a file that was brought in */
  base: string;
  /** of the root file system: `fsverity-sha256:HEX`, or `sha256:HEX` in records of before schema 3 */
  digest: string;
  /** apparent size of the root file system in `bytes` */
  sizeBytes: number;
  /** recipe it was built from as JSON, without the values of its environment, which no record has; null when it was brought in */
  recipe: string | null;
  /** digest of everything the build depended on; an equal one means nothing is to be done */
  recipeKey: string | null;
  /** ISO 8601 */
  createdAt: string;
}

export interface ImageStore {
  /** By name. */
  list(): ImageRecord[];
  find(name: string): ImageRecord | undefined;
  findById(id: string): ImageRecord | undefined;
  /** @throws BangerError `not_found` with the command that lists them */
  get(name: string): ImageRecord;
  /**
   * Registers an image. Where the one with the id `replace` has its name, that is replaced in the same transaction and
   * returned.
   * @throws BangerError `conflict` when another one has the name
   */
  insert(image: ImageRecord, options?: { replace?: string | undefined }): ImageRecord | undefined;
  /**
   * Also in the records of the images that were made from it.
   * @throws BangerError `conflict` when the name is taken
   */
  rename(id: string, name: string): void;
  remove(id: string): void;
}

export function createImageStore(database: Database): ImageStore {
  const all = database.prepare('SELECT * FROM images ORDER BY name');
  const byName = database.prepare('SELECT * FROM images WHERE name = ?');
  const byId = database.prepare('SELECT * FROM images WHERE id = ?');
  const remove = database.prepare('DELETE FROM images WHERE id = ?');
  const rename = database.prepare('UPDATE images SET name = ? WHERE id = ?');
  const rebase = database.prepare('UPDATE images SET base = ? WHERE base = ?');
  const insert = database.prepare(
    `INSERT INTO images (id, name, arch, base, digest, size_bytes, recipe, recipe_key, created_at)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  const find = (name: string) => optional(byName.get(name));
  const requireFree = (name: string, id: string) => {
    const holder = find(name);
    if (!holder || holder.id === id) return;
    throw new BangerError('conflict', `An image named "${name}" exists already.`, {
      hint: `Choose another name, or delete it first: banger image delete ${name}`,
    });
  };
  return {
    list: () => all.all().map(fromRow),
    find,
    findById: (id) => optional(byId.get(id)),
    get(name) {
      const image = find(name);
      if (image) return image;
      throw new BangerError('not_found', `There is no image named "${name}".`, {
        hint: 'See what exists: banger image list',
        details: { name },
      });
    },
    insert: (image, { replace } = {}) =>
      inTransaction(database, () => {
        const holder = find(image.name);
        const replaced = holder?.id === replace ? holder : undefined;
        if (replaced) remove.run(replaced.id);
        requireFree(image.name, image.id);
        const { id, name, arch, base, digest, sizeBytes, recipeKey, createdAt } = image;
        const recipe = image.recipe === null ? null : (keptRecipe(image.recipe) ?? null);
        insert.run(id, name, arch, base, digest, sizeBytes, recipe, recipeKey, createdAt);
        return replaced;
      }),
    rename(id, name) {
      requireFree(name, id);
      const before = optional(byId.get(id));
      rename.run(name, id);
      if (before) rebase.run(name, before.name);
    },
    remove: (id) => void remove.run(id),
  };
}

function optional(row: Record<string, unknown> | undefined): ImageRecord | undefined {
  return row ? fromRow(row) : undefined;
}

function fromRow(row: Record<string, unknown>): ImageRecord {
  return {
    id: String(row.id),
    name: String(row.name),
    arch: String(row.arch),
    base: String(row.base),
    digest: String(row.digest),
    sizeBytes: Number(row.size_bytes),
    recipe: row.recipe === null ? null : recordedRecipe(String(row.recipe)),
    recipeKey: row.recipe_key === null ? null : String(row.recipe_key),
    createdAt: String(row.created_at),
  };
}
