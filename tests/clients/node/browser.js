// A person at a browser: Debian's Chromium, driven by playwright-core. Each act is one story, and returns what was on the page.
'use strict';

const { chromium } = require('playwright-core');

const base = process.argv[2];
const options = { api: base, amount: 4200, ...JSON.parse(process.argv[3]) };
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const text = (page) => page.evaluate(() => document.body.innerText);
const go = (page, path = options.page) => page.goto((options.origin ?? base) + path);

// Runs in the page: one operation, one key, as many tries as it takes.
const pay = async ({ api, action, caller, key, amount, tries }) => {
  const headers = { authorization: caller, 'content-type': 'application/json' };
  if (key) headers['idempotency-key'] = key;
  for (let attempt = 1; ; attempt += 1) {
    const call = { method: 'POST', headers, body: JSON.stringify({ amount }) };
    const answer = await fetch(api + action, call).catch((error) => error);
    const seen = { attempt, status: answer.status, error: answer.status ? undefined : answer.name };
    if (answer.headers) seen.said = answer.headers.get('idempotency-status');
    if (answer.ok) seen.id = await answer.json().then(({ id }) => id, () => undefined);
    if (seen.id || attempt === tries) return seen;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
};

// Clicks after these times, and does not wait for what comes of it.
const click = (page, ...times) =>
  page.evaluate((times) => {
    for (const time of times) setTimeout(() => document.querySelector('button').click(), time);
  }, times);

// The page that the form leads to; a person who sees an error instead loads it again.
const settled = async (page) => {
  const deadline = Date.now() + 20_000;
  for (let reloads = 0; ; await pause(20)) {
    // Between two pages there is none to look at.
    const seen = await page.evaluate(() => [document.documentURI, document.body.innerText]).catch(() => ['', '']);
    if (seen[1].includes('pay_') || Date.now() > deadline) return { reloads, text: seen[1] };
    if (!seen[0].startsWith('chrome-error:')) continue;
    reloads += 1;
    await page.reload().catch(() => undefined);
  }
};

const acts = {
  async fetches(page) {
    await go(page);
    return page.evaluate(pay, options);
  },

  // The page pays as it is left. The next page has the key too: it looks the payment up where options say how, and pays.
  async leaves(page) {
    await go(page);
    await page.evaluate(({ action, caller, key, amount, keepalive }) => {
      addEventListener('pagehide', () => {
        const headers = { authorization: caller, 'content-type': 'application/json', 'idempotency-key': key };
        fetch(action, { method: 'POST', keepalive, headers, body: JSON.stringify({ amount }) });
      });
    }, options);
    await go(page, `${options.page}?next`);
    const found = await page.evaluate(async ({ look_up, caller, key }) => {
      const headers = { authorization: caller, 'idempotency-key': key };
      for (let look = 0; look_up && look < 200; look += 1) {
        const { state } = await (await fetch(look_up, { headers })).json();
        if (state === 'completed') return state;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }, options);
    return { found, ...(await page.evaluate(pay, options)) };
  },

  async posts(page) {
    await go(page);
    await click(page, 0);
    return settled(page);
  },

  async clicks_twice(page) {
    await go(page);
    await click(page, 0, 150);
    return settled(page);
  },

  async reloads(page) {
    await go(page);
    await click(page, 0);
    const first = await settled(page);
    const answer = await page.reload();
    return { first: first.text, text: await text(page), said: answer.headers()['idempotency-status'] };
  },

  async goes_back(page) {
    await go(page);
    await click(page, 0);
    const first = await settled(page);
    await page.goBack();
    await click(page, 0);
    return { first: first.text, ...(await settled(page)) };
  },

  // The same page in two tabs of one session.
  async two_tabs(page, context) {
    const tabs = [page, await context.newPage()];
    for (const tab of tabs) await go(tab);
    await Promise.all(tabs.map((tab) => click(tab, 0)));
    return { tabs: await Promise.all(tabs.map(settled)) };
  },
};

(async () => {
  const browser = await chromium.launch({ executablePath: options.chromium, args: ['--no-sandbox'] });
  try {
    const context = await browser.newContext();
    if (options.session) await context.addCookies([{ name: 'sid', value: options.session, url: base }]);
    console.log(JSON.stringify(await acts[options.act](await context.newPage(), context)));
  } finally {
    await browser.close();
  }
})();
