/** A daemon that pulls an image and can be killed while it does: `node pull-child.ts HOME BUNDLE REFERENCE`; says each step. */
import { loadConfig } from '../../src/config/load.ts';
import { pullImage } from '../../src/control/images/pull.ts';
import { createOperations } from '../../src/control/operations.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createOperationStore } from '../../src/state/operations.ts';
import { createStores } from '../../src/state/stores.ts';
import { hostSystem } from './host-system.ts';

const [home = '', bundle = '', reference = ''] = process.argv.slice(2);
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, HOME: home, BANGER_HOME: home };
const { config } = await loadConfig({ env, uid: 0 });
const database = openDatabase(':memory:');
const now = () => new Date();
const host = {
  config: { ...config, bundle: { ...config.bundle, default: bundle } },
  system: hostSystem(env),
  log: { info: () => {}, warn: () => {}, error: () => {} },
  ...{ now, stores: createStores(database), operations: createOperations(createOperationStore(database), now) },
};
const progress = {
  step: (name: string) => void process.stdout.write(`${name}\n`),
  report: () => {},
  line: () => {},
  warn: () => {},
};
await pullImage(host, { reference }, progress, new AbortController().signal);
process.stdout.write('done\n');
