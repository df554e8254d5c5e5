/** Scripts inside the executable. */
import { getAsset, getRawAsset } from 'node:sea';
import { Script } from 'node:vm';

/** Runs an embedded CommonJS script and returns what it exports. */
export function runAsset(name: string): unknown {
  const script = new Script(getAsset(`${name}.js`, 'utf8'), {
    filename: `${name}.js`,
    cachedData: new Uint8Array(getRawAsset(`${name}.cache`)),
  });
  const module = { exports: {} };
  script.runInThisContext()(module.exports, requireBuiltin, module, process.execPath, '/');
  return module.exports;
}

/** Everything else is inside the script: whatever files lie beside the executable or in a home directory, none is code of ours. */
function requireBuiltin(id: string): unknown {
  const module = process.getBuiltinModule(id);
  if (module === undefined) throw new Error(`There is no ${id} inside the executable.`);
  return module;
}
