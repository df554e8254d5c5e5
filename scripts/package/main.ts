/** `make install`, `uninstall`, `deb`: what is installed, put where it belongs. See docs/install.md. */
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { installedContent, layoutOf } from './content.ts';
import { buildDeb } from './deb.ts';
import { PACKAGE_VERSION, sourceDate } from './identity.ts';
import { stage } from './stage.ts';
import { thisSystem, uninstall } from './uninstall.ts';

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    prefix: { type: 'string', default: '/usr/local' },
    destdir: { type: 'string', default: '/' },
    output: { type: 'string', default: join(import.meta.dirname, '../../dist') },
    // packages of a version that is not this one, to try upgrades with
    version: { type: 'string', default: PACKAGE_VERSION },
    compression: { type: 'string', default: 'xz' },
  },
});

const [what] = positionals;
const origin = { version: values.version, date: sourceDate() };
switch (what) {
  case 'install':
    stage(resolve(values.destdir), await installedContent(layoutOf(values.prefix), origin));
    break;
  case 'uninstall': {
    const root = resolve(values.destdir);
    uninstall(root, values.prefix, await installedContent(layoutOf(values.prefix), origin), thisSystem(root));
    break;
  }
  case 'list':
    for (const { path } of await installedContent(layoutOf(values.prefix), origin)) console.log(path);
    break;
  case 'deb':
    console.log(await buildDeb({ ...origin, output: values.output, compression: values.compression }));
    break;
  default:
    console.error('usage: node scripts/package/main.ts install|uninstall|list|deb [--prefix DIR] [--destdir DIR]');
    process.exit(2);
}
