/** What an image keeps of the recipe it was built from: of its environment the names, since values may be secrets. */
import { isVast } from './json-size.ts';

/** Whether an environment has a value, as this banger writes recipes. */
const HAS_VALUE = /"env":\{"[^"]*":"/;

/**
 * @param recipe as JSON, or whatever an archive brings along in its place
 * @returns undefined for more than any recipe is
 */
export function keptRecipe(recipe: string): string | undefined {
  if (isVast(recipe)) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(recipe);
  } catch {
    return recipe;
  }
  if (!hasEnvironment(value)) return recipe;
  const env = Object.fromEntries(Object.keys(value.env).map((name) => [name, null]));
  return JSON.stringify({ ...value, env });
}

/** The same of what is in a record, which was made by `keptRecipe` or by a banger that kept values. */
export function recordedRecipe(recipe: string): string {
  return HAS_VALUE.test(recipe) ? (keptRecipe(recipe) ?? '{}') : recipe;
}

function hasEnvironment(value: unknown): value is { env: object } {
  return typeof value === 'object' && value !== null && 'env' in value && typeof value.env === 'object' && !!value.env;
}
