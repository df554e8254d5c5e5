/** What a file exports, another one imports: an export that nobody needs keeps dead code alive. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { describe, it } from 'node:test';

const ROOT = resolve(import.meta.dirname, '..');

function sources(directory: string): string[] {
  return readdirSync(join(ROOT, directory), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(ROOT, directory, name));
}

/** Names in braces, as they are called where they come from. */
function namesIn(list: string): string[] {
  return list.split(',').flatMap((item) => {
    const name = item
      .trim()
      .replace(/^type /, '')
      .split(/\s+as\s+|:/)[0]
      ?.trim();
    return name ? [name] : [];
  });
}

/** `file#name` of all that is imported, and `file#*` of what is imported as a whole. */
function importsOf(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  const at = (specifier = '', names: readonly string[] = ['*']) =>
    names.map((name) => `${resolve(dirname(file), specifier)}#${name}`);
  const listed = text.matchAll(/^(?:import|export)\s+(?:type\s+)?\{([^}]*)\}\s*from\s*'(\.[^']+)'/gm);
  const whole = text.matchAll(/(?:^(?:import|export)\s+\*[^']*from\s*|\bimport\()'(\.[^']+)'/gm);
  const awaited = text.matchAll(/\{([^{}]*)\}\s*=\s*await import\('(\.[^']+)'\)/g);
  const picked = [...awaited].map(([, names = '', specifier]) => at(specifier, namesIn(names)));
  return [
    ...[...listed].flatMap(([, names = '', specifier]) => at(specifier, namesIn(names))),
    ...picked.flat(),
    ...[...whole].flatMap(([, specifier]) => at(specifier)),
  ];
}

/** Values a file exports by name. Types are left out: those of a signature may be named whether somebody does or not. */
function exportedValues(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  const found = text.matchAll(/^export (?:async )?(?:function\*?|const|let|class) (\w+)/gm);
  return [...found].map(([, name = '']) => name);
}

describe('an exported value', () => {
  it('is imported by another file', () => {
    const own = [...sources('src'), ...sources('fcqemu'), ...sources('bin')];
    const others = [...sources('test'), ...sources('scripts'), ...sources('bench')];
    const imported = new Set([...own, ...others].flatMap(importsOf));
    const dead = own
      .filter((file) => !imported.has(`${file}#*`))
      .flatMap((file) => exportedValues(file).map((name) => `${file}#${name}`))
      .filter((each) => !imported.has(each));
    assert.deepEqual(
      dead.map((each) => each.slice(ROOT.length + 1)),
      [],
    );
  });
});
