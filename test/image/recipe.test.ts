/** Recipes: what is accepted, what is said about mistakes, and the published schema. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { normalizedLines } from '../../src/image/normalized-lines.ts';
import { applySettings, checkRecipe, readToml, recipeJsonSchema } from '../../src/image/recipe.ts';

const read = (text: string) => checkRecipe(readToml(text, 'dev.toml'), 'dev.toml');

describe('a recipe', () => {
  it('needs nothing, and everything it leaves out has a value', () => {
    const recipe = read('');
    assert.deepEqual(recipe.packages, []);
    assert.deepEqual([recipe.user, recipe.run_timeout, recipe.memory, recipe.vcpus], ['root', '30m', '1GiB', 1]);
    assert.equal(recipe.keep_caches, false);
  });

  it('may hold all there is', () => {
    const recipe = read(`
      name = "dev"
      base = "debian-bookworm"
      size = "4GiB"
      packages = ["jq", "htop=3.2.2-2", "libstdc++6"]
      run = ["echo one", { script = "setup.sh" }]
      [env]
      STAGE = "image"
      [[files]]
      source = "motd"
      target = "/etc/motd"
      owner = "www-data:adm"
      mode = "0640"`);
    assert.deepEqual(recipe.run, ['echo one', { script: 'setup.sh' }]);
    assert.deepEqual(recipe.files, [{ source: 'motd', target: '/etc/motd', owner: 'www-data:adm', mode: '0640' }]);
  });

  it('is refused with every mistake at once, each by its key', () => {
    assert.throws(
      () => read('nam = "dev"\nsize = "big"\npackages = ["--force", "jq"]\n[[files]]\nsource = "a"\ntarget = "etc"'),
      (error: Error) => {
        assert.match(error.message, /^dev\.toml: /);
        assert.match(error.message, /unknown key nam/);
        assert.match(error.message, /size \("big"\) is not a size/);
        assert.match(error.message, /packages\.0 \("--force"\) is no package name/);
        assert.match(error.message, /files\.0\.target \("etc"\) must be an absolute path/);
        return true;
      },
    );
  });

  it('is refused without what an environment holds, which may be secret', () => {
    assert.throws(
      () => read('[env]\n"MY-TOKEN" = "s3cret"'),
      (error: Error) => /MY-TOKEN/.test(error.message) && !/s3cret/.test(error.message),
    );
  });

  it('is refused with the line where it is no TOML', () => {
    assert.throws(() => read('name = "dev"\npackages = [jq]\n'), /dev\.toml, line 2: /);
  });

  it('takes no target that climbs out and no name that is none', () => {
    assert.throws(() => read('[[files]]\nsource = "a"\ntarget = "/etc/../x"'), /must not contain \.\./);
    assert.throws(() => read('name = "Dev Image"'), /must be a DNS label/);
    assert.throws(() => read('memory = "1000001B"'), /memory is no whole number of MiB/);
  });

  it('is laid over by settings, whose values are TOML where they read so', () => {
    const raw = readToml('size = "2GiB"\n[env]\nA = "1"', 'dev.toml');
    const laid = applySettings(raw, ['size=4GiB', 'packages=["jq"]', 'env.B=two words', 'keep_caches=true', 'vcpus=2']);
    const recipe = checkRecipe(laid, 'dev.toml');
    assert.deepEqual([recipe.size, recipe.packages, recipe.keep_caches, recipe.vcpus], ['4GiB', ['jq'], true, 2]);
    assert.deepEqual(recipe.env, { A: '1', B: 'two words' });
    assert.equal((raw as { size: string }).size, '2GiB', 'what was read stays as it was');
    assert.throws(() => applySettings(raw, ['size']), /no key=value/);
    assert.throws(() => applySettings(raw, ['size.x=1']), /size holds no table/);
  });

  it('has the JSON Schema that docs/recipe.schema.json publishes', async () => {
    const path = join(import.meta.dirname, '../../docs/recipe.schema.json');
    const published = JSON.parse(await readFile(path, 'utf8').catch(() => '{}'));
    assert.deepEqual(published, recipeJsonSchema(), `write it anew:\n${JSON.stringify(recipeJsonSchema(), null, 2)}`);
  });
});

describe('a list kept in a file', () => {
  it('loses comments, spaces, blank lines and repetitions, and keeps its order', () => {
    const text = '\uFEFF# tools\r\n  jq \n\n\thtop # to look\njq\r#tree\ntree\n   \nc#\n';
    assert.deepEqual(normalizedLines(text), ['jq', 'htop', 'tree', 'c#']);
    assert.deepEqual(normalizedLines(''), []);
  });
});

describe('keys that every object has', () => {
  it('are none that --set or a recipe may give, and change no other object', () => {
    for (const key of ['__proto__.polluted', '__proto__', 'env.__proto__.polluted', 'constructor.prototype.polluted']) {
      assert.throws(() => applySettings({}, [`${key}=1`]), { code: 'invalid_input', message: /is no key/ }, key);
    }
    assert.throws(() => readToml('[__proto__]\npolluted = 1', 'x.toml'), { code: 'invalid_input' });
    assert.throws(() => readToml('[env]\n__proto__ = "x"', 'x.toml'), { code: 'invalid_input' });
    const laid = applySettings({}, ['env={ __proto__ = { polluted = 1 } }']);
    assert.equal(typeof laid.env, 'string');
    assert.equal(Reflect.get({}, 'polluted'), undefined);
  });
});
