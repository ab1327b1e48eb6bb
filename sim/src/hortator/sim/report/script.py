"""What moves in the page: hints at the pointer, policies switched off and on, one time line over all ranks.

Without it the page says the same: hints are SVG titles. It must stay well-formed as XML: no ampersand and no
less-than sign.
"""

from __future__ import annotations

SCRIPT = """
(function () {
  'use strict';
  var tip = document.getElementById('tip');
  document.documentElement.classList.add('js');
  document.querySelectorAll('svg.fig title').forEach(function (title) {
    title.parentNode.setAttribute('data-tip', title.textContent);
    title.remove();
  });
  var cursors = document.querySelectorAll('svg.fig .cursor');
  document.addEventListener('pointermove', function (event) {
    var at = event.target.closest('[data-tip]');
    tip.style.visibility = at ? 'visible' : 'hidden';
    if (at) {
      tip.textContent = at.getAttribute('data-tip');
      var left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
      var below = event.clientY + 18;
      var above = event.clientY - tip.offsetHeight - 10;
      tip.style.left = left + 'px';
      tip.style.top = (below + tip.offsetHeight > window.innerHeight ? above : below) + 'px';
    }
    var ranks = event.target.closest('.ranks');
    var x = 0;
    if (ranks) {
      var svg = ranks.ownerSVGElement;
      x = (event.clientX - svg.getBoundingClientRect().left) * svg.viewBox.baseVal.width / svg.clientWidth;
    }
    cursors.forEach(function (cursor) {
      cursor.style.visibility = ranks ? 'visible' : 'hidden';
      cursor.setAttribute('x1', x);
      cursor.setAttribute('x2', x);
    });
  });
  document.querySelectorAll('nav button').forEach(function (button) {
    button.addEventListener('click', function () {
      var isOff = button.getAttribute('aria-pressed') === 'true';
      button.setAttribute('aria-pressed', String(!isOff));
      document.querySelectorAll('.of-' + button.value).forEach(function (part) {
        part.classList.toggle('off', isOff);
      });
    });
  });
}());
"""
